"""Other people's checkpoints: through the table of published files and by path."""

from __future__ import annotations

import json
import pickle
from math import prod
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tests.parity import tiny_clip
from tests.parity.kinds.visualad import author_file
from tests.served import Published, git_blob, prompts_file
from zsad.clip import load_clip
from zsad.clip.loading import model_config
from zsad.methods import VAND, AnomalyCLIP, CheckpointError, VisualAD
from zsad.methods.author_files import READERS, convert, weights_path
from zsad.weights import MismatchError, NotPublishedError, list_weights
from zsad.weights.registry import find
from zsad.weights.store import cached

NAME = "anomalyclip/visa"
FIXTURE = Path(__file__).parents[1] / "parity" / "fixtures" / "anomalyclip"


def test_converted_tensors_are_the_sources(published: Published, tmp_path: Path) -> None:
    published.publish(NAME, prompts_file(tmp_path / "source.pth"))
    path = weights_path(NAME)
    source = torch.load(tmp_path / "source.pth", weights_only=True)["prompt_learner"]
    made = load_file(path)
    assert torch.equal(made.pop("parameters.prompts.ctx_normal"), source["ctx_pos"][0, 0])
    assert torch.equal(made.pop("parameters.prompts.ctx_abnormal"), source["ctx_neg"][0, 0])
    for index in range(2):
        name = f"parameters.prompts.deep_tokens.{index}"
        assert torch.equal(made.pop(name), source[f"compound_prompts_text.{index}"])
    assert not made
    assert path.stat().st_size < (tmp_path / "source.pth").stat().st_size
    assert convert(find(NAME), [tmp_path / "source.pth"]) == path.read_bytes()
    with safe_open(path, framework="pt") as file:
        noted = json.loads(file.metadata()["zsad"])
    assert (noted["method"], noted["backbone"]) == ("AnomalyCLIP", "zsad-mini")
    assert noted["trained_on"][0]["name"] == "visa"
    model = AnomalyCLIP.from_weights(path)
    assert (model.clip.name, model.trained_on[0]["adapters"]) == ("zsad-mini", NAME)


def test_a_file_of_the_authors_layout_has_the_parity_numbers(
    published: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases = json.loads((FIXTURE / "cases.json").read_text(encoding="utf-8"))["cases"]
    (case,) = [one for one in cases if one["name"] == "author_checkpoint"]
    stored = load_file(FIXTURE / case["file"])
    state = {name.removeprefix("prompt_learner."): stored[name] for name in case["inputs"]}
    torch.save({"prompt_learner": state}, tmp_path / "epoch_15.pth")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "parity-tiny", tiny_clip.CONFIGS[case["backbone"]["config"]])
    published.publish(NAME, (tmp_path / "epoch_15.pth").read_bytes(), backbone="parity-tiny/fixture")
    clip = tiny_clip.clip(case["backbone"]["config"], case["backbone"]["seed"], "bilinear")
    clip.name = "parity-tiny/fixture"
    model = AnomalyCLIP.from_weights(weights_path(NAME), backbone=clip)
    expected = stored["expected.text_features"]
    tolerance = case["outputs"]["expected.text_features"]["atol"]
    torch.testing.assert_close(model.text(["object"])[0], expected, atol=tolerance, rtol=0)


class Evil:
    """Pickled, it would leave a file behind when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("harm", ["code", "module", "extra key", "nan", "shape", "missing", "list"])
def test_what_is_not_the_expected_tensors_is_refused(
    harm: str,
    published: Published,
    home: Path,
    tmp_path: Path,
) -> None:
    path, canary = tmp_path / "source.pth", tmp_path / "canary"
    words = {
        "code": "cannot be read as a checkpoint",
        "module": "cannot be read as a checkpoint",
        "extra key": r"holds \['surprise'\], which AnomalyCLIP's released code does not write",
        "nan": "is damaged: 'ctx_pos' holds values that are NaN or infinite",
        "shape": r"does not fit 'anomalyclip/visa' on 'zsad-mini', first at 'prompts\.ctx_normal': expected shape "
        r"\(12, 128\), found \(12, 64\)",
        "missing": "'ctx_neg' is missing",
        "list": "is no state dict of AnomalyCLIP's prompt learner, but list",
    }[harm]
    if harm == "code":
        path.write_bytes(pickle.dumps({"prompt_learner": {"ctx_pos": Evil(canary)}}))
    elif harm == "module":
        torch.save(nn.Linear(2, 2), path)
    elif harm == "list":
        torch.save([1, 2], path)
    else:
        changed: dict[str, dict[str, torch.Tensor | None]] = {
            "extra key": {"surprise": torch.zeros(1)},
            "nan": {"ctx_pos": torch.full((1, 1, 12, 128), float("nan"))},
            "shape": {"ctx_pos": torch.zeros(1, 1, 12, 64)},
            "missing": {"ctx_neg": None},
        }
        prompts_file(path, **changed[harm])  # type: ignore[arg-type]
    published.publish(NAME, path.read_bytes())  # even a file that has the right hash
    with pytest.raises(CheckpointError, match=words):
        weights_path(NAME)
    assert not canary.exists()
    assert cached(find(NAME)) is None
    assert not list(home.rglob("*.safetensors"))


def test_another_methods_file_with_the_same_layout_is_refused(published: Published, tmp_path: Path) -> None:
    source = {
        "kind": "github_raw",
        "repository": "o/r",
        "commit": "0" * 40,
        "path": "c/trained_on_visa_crane/epoch_5.pth",
    }
    published.publish("crane/visa", prompts_file(tmp_path / "mine.pth"), method="Crane", status="other", source=source)
    clip = load_clip("zsad-mini")
    with pytest.raises(CheckpointError) as caught:
        AnomalyCLIP.from_author_checkpoint(tmp_path / "mine.pth", clip)
    assert str(caught.value) == (
        f"'{tmp_path / 'mine.pth'}' is Crane's published 'trained_on_visa_crane/epoch_5.pth' (by its hash), not "
        f"AnomalyCLIP's: it has the same layout, but belongs to another method."
    )
    with pytest.raises(NotPublishedError, match=r"'crane/visa' is published .* but zsad does not read it yet"):
        weights_path("crane/visa")
    assert published.server.asked == []


@pytest.mark.filterwarnings("ignore:.*was trained with another CLIP")
def test_a_file_by_path_is_known_by_its_hash(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "whatever.pth"
    content = prompts_file(path)
    clip = load_clip("zsad-mini")
    assert "whatever.pth" in AnomalyCLIP.from_author_checkpoint(path, clip).trained_on[0]["name"]
    published.publish(NAME, content)
    trained_on = AnomalyCLIP.from_author_checkpoint(path, clip).trained_on[0]
    assert (trained_on["name"], trained_on["adapters"], trained_on["epochs"]) == ("visa", NAME, 15)


def test_linear_layers_of_vand(published: Published, tmp_path: Path) -> None:
    model = VAND("zsad-mini", seed=5)
    path = tmp_path / "mvtec_pretrained.pth"
    torch.save({"trainable_linearlayer": model.fc.state_dict(prefix="fc.")}, path)
    published.publish(
        "vand/mvtec_ad",
        path.read_bytes(),
        method="VAND",
        layout="vand",
        options={"activation": None},
        trained_on={"name": "mvtec_ad", "split": "test"},
    )
    loaded = VAND.from_weights(weights_path("vand/mvtec_ad"))
    for name, value in model.fc.state_dict().items():
        assert torch.equal(loaded.fc.state_dict()[name], value)
    assert loaded.trained_on[0]["name"] == "mvtec_ad"
    with pytest.raises(
        CheckpointError, match=r"is VAND's published .* not AnomalyCLIP's: it belongs to another method"
    ):
        AnomalyCLIP.from_author_checkpoint(path, "zsad-mini")


def test_wrong_content_never_reaches_a_reader(published: Published, tmp_path: Path) -> None:
    place = published.publish(NAME, prompts_file(tmp_path / "source.pth"))
    published.server.files[place] = pickle.dumps(Evil(tmp_path / "canary"))
    with pytest.raises(MismatchError, match="is not the file that is expected"):
        weights_path(NAME)
    assert not (tmp_path / "canary").exists()
    assert git_blob(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_visualads_published_layout_is_converted(published: Published, tmp_path: Path) -> None:
    model = VisualAD("zsad-mini", seed=5).eval()
    torch.save(author_file(model, 96), tmp_path / "CLIP.pth")
    row = {"method": "VisualAD", "options": {}, "layout": "visualad"}
    published.publish("visualad/visa", (tmp_path / "CLIP.pth").read_bytes(), **row)
    loaded = VisualAD.from_weights(weights_path("visualad/visa")).eval()
    assert loaded.trained_on[0]["name"] == "visa"
    image = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(image, ["", ""]), model(image, ["", ""]), atol=0, rtol=0)


def test_shapes_of_the_published_files_come_without_the_weights_of_their_backbones() -> None:
    shapes = {
        entry.name: READERS[entry.layout].shapes(model_config(str(entry.backbone)), entry.options)
        for entry in list_weights()
        if entry.status == "ready"
    }
    assert shapes["anomalyclip/visa"]["prompts.ctx_normal"] == (12, 768)
    assert len(shapes["anomalyclip/visa"]) == 10
    layers = {f"fc.{n}.weight": (768, 1024) for n in range(4)} | {f"fc.{n}.bias": (768,) for n in range(4)}
    assert shapes["vand/visa"] == layers
    for name, size in (("visualad/visa", 126_119_090), ("adaclip/all", 42.7e6)):  # bytes of the published files
        assert 4 * sum(prod(shape) for shape in shapes[name].values()) == pytest.approx(size, rel=0.01)
