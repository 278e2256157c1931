"""Published adapters in one word: load_model, zsad score, zsad test, zsad benchmark."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.served import Published, prompts_file
from zsad import list_weights, load_model, weights_path
from zsad.cli import main as cli
from zsad.clip import load_clip
from zsad.inference.adapters import OtherTowerWarning
from zsad.methods import AnomalyCLIP, CheckpointError
from zsad.synthetic import generate
from zsad.weights import NotHereError, UnknownAdaptersError, notices

NAME = "anomalyclip/visa"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_told", set())
    monkeypatch.delenv("ZSAD_ACCEPT_NONCOMMERCIAL", raising=False)


@pytest.fixture
def both(published: Published, tmp_path: Path) -> Published:
    """AnomalyCLIP's two adapters, for the embedded backbone."""
    published.publish(NAME, prompts_file(tmp_path / "visa.pth", seed=1))
    mvtec = {"name": "mvtec_ad", "split": "test", "epochs": 15}
    published.publish("anomalyclip/mvtec_ad", prompts_file(tmp_path / "mvtec.pth", seed=2), trained_on=mvtec)
    return published


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "photo.png"
    path.parent.mkdir()
    Image.fromarray(generate("gear", "hole", seed=3).image).save(path)
    return path


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """One class in MVTec AD's layout."""
    root = tmp_path / "benchmark"
    for number in range(4):
        defect = "hole" if number % 2 else ""
        sample = generate("coin", defect, seed=number)
        for kind, image in (("test", sample.image), ("ground_truth", sample.mask)):
            if kind == "test" or defect:
                path = root / "bottle" / kind / (defect or "good") / f"{number:03d}{'_mask' * (kind != 'test')}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    return root


def context(model: Any) -> torch.Tensor:
    value: torch.Tensor = model.method.prompts.ctx_normal
    return value


def test_one_word_gives_trained_weights(both: Published, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("anomalyclip", device="cpu")
    source = torch.load(photo.parent.parent / "visa.pth", weights_only=True)["prompt_learner"]
    assert torch.equal(context(model), source["ctx_pos"][0, 0])
    assert model.method.clip.name == "zsad-mini"
    assert model.method.trained_on[0]["adapters"] == NAME  # type: ignore[index]
    expected = AnomalyCLIP.from_weights(weights_path(NAME))
    result = model.predict(photo)
    assert result.pred_score == pytest.approx(load_model("anomalyclip/visa").predict(photo).pred_score)
    assert torch.equal(context(load_model("AnomalyCLIP", checkpoint="visa")), expected.prompts.ctx_normal)
    assert not torch.equal(context(load_model("anomalyclip/mvtec_ad")), expected.prompts.ctx_normal)
    shown = capsys.readouterr().err
    assert shown.count("AnomalyCLIP with adapters 'anomalyclip/visa' (trained on VisA, CC BY 4.0; code MIT).\n") == 1
    assert len(both.server.asked) == 2
    assert {one.name for one in list_weights("anomalyclip")} == {NAME, "anomalyclip/mvtec_ad"}


def test_names_that_mean_nothing_or_two_things(both: Published) -> None:
    with pytest.raises(UnknownAdaptersError, match="No adapters 'anomalyclip/btad'"):
        load_model("anomalyclip/btad")
    with pytest.raises(UnknownAdaptersError, match="No adapters 'anomalyclip/btad'"):
        load_model("anomalyclip", checkpoint="btad")
    with pytest.raises(ValueError, match="'anomalyclip/visa' names adapters, and so does checkpoint='mvtec_ad'"):
        load_model("anomalyclip/visa", checkpoint="mvtec_ad")
    with pytest.raises(ValueError, match="AACLIP learns parameters, and no checkpoint is given"):
        load_model("aaclip")


def test_here_once_no_connection_is_opened(both: Published, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_model("anomalyclip", device="cpu").predict(photo).pred_score

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, forbidden)
    assert load_model("anomalyclip", device="cpu").predict(photo).pred_score == pytest.approx(expected)
    with pytest.raises(NotHereError, match="offline mode is on"):
        load_model("anomalyclip/mvtec_ad", offline=True)


@pytest.mark.parametrize("how", ["said", "variable", "argument"])
def test_terms_that_forbid_commercial_use_are_said_once(
    how: str, both: Published, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("ZSAD_ACCEPT_NONCOMMERCIAL", "1")
    for _ in range(2):
        load_model("anomalyclip/mvtec_ad", accept_noncommercial=how == "argument")
    shown = capsys.readouterr().err
    assert shown.count("(trained on MVTec AD, CC BY-NC-SA 4.0; code MIT)") == 1
    assert shown.count("The terms of MVTec AD (CC BY-NC-SA 4.0) forbid commercial use") == (how == "said")


def test_adapters_fit_one_backbone(both: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model("anomalyclip/visa", backbone="ViT-B-32/openai")
    assert str(caught.value) == (
        "Adapters 'anomalyclip/visa' were trained on zsad-mini; this model is ViT-B-32/openai. Leave out backbone=."
    )
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "zsad-test-small", config)
    content = prompts_file(tmp_path / "small.pth", backbone_width=32)
    both.publish("anomalyclip/btad", content, backbone="zsad-test-small/random")
    model = load_model("anomalyclip/btad", device="cpu")  # notes the hash of its tower
    state = {key: value.clone() for key, value in model.method.clip.model.state_dict().items()}
    save_file(state, tmp_path / "same.safetensors")
    save_file(
        {key: value + 1 if key == "visual.proj" else value for key, value in state.items()}, tmp_path / "x.safetensors"
    )
    same = load_model("anomalyclip/btad", backbone=f"zsad-test-small/{tmp_path}/same.safetensors", device="cpu")
    assert torch.equal(context(same), context(model))
    with pytest.warns(OtherTowerWarning, match="has other weights than the one that the adapters 'anomalyclip/btad'"):
        load_model("anomalyclip/btad", backbone=f"zsad-test-small/{tmp_path}/x.safetensors")


def test_score_in_one_command(both: Published, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["score", str(photo.parent), "--method", "anomalyclip", "--out", str(out), "--device", "cpu"]) == 0
    (row,) = [json.loads(line) for line in (out / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row["score"] == pytest.approx(load_model("anomalyclip", device="cpu").predict(photo).pred_score, abs=1e-5)
    assert "AnomalyCLIP with adapters 'anomalyclip/visa'" in capsys.readouterr().err
    settings = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    assert settings["adapters"] == (
        "AnomalyCLIP with adapters 'anomalyclip/visa' (trained on VisA, CC BY 4.0; code MIT)."
    )


def test_a_test_takes_the_papers_pair_and_refuses_the_training_set(
    both: Published, mvtec: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    test = ["test", "--model=anomalyclip", "--model.backbone=zsad-mini", "--data=mvtec_ad", f"--data.root={mvtec}"]
    test += ["--data.classes=[bottle]", "--data.counts=ignore", *QUIET]
    assert cli.main(test) == 0
    assert "with adapters 'anomalyclip/visa'" in capsys.readouterr().err
    assert cli.main([*test, "--ckpt_path=mvtec_ad"]) == 2
    shown = capsys.readouterr().err
    assert "trained on mvtec_ad (15 epochs) and is to be tested on mvtec_ad: not a zero-shot result" in shown
    both.rows.pop(NAME)
    both.write()
    assert cli.main(test) == 2
    assert "All published adapters of AnomalyCLIP were trained on mvtec_ad" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="is not trained"):
        assert cli.main([*test, "--ckpt_path=untrained"]) == 0


def test_a_benchmark_without_auxiliary_data_takes_the_papers_pair(both: Published, mvtec: Path, tmp_path: Path) -> None:
    grid = ["benchmark", "--methods", "anomalyclip", "--backbone", "zsad-mini", "--device", "cpu"]
    data = f"MVTecAD={mvtec}:classes=[bottle],counts=ignore"
    assert cli.main([*grid, "--data", data, "--out", str(tmp_path / "results")]) == 0
    (path,) = (tmp_path / "results" / "cells").glob("*/*/*.json")
    trained = json.loads(path.read_text(encoding="utf-8"))["trained"]
    assert trained["on"][0]["adapters"] == NAME
    assert trained["file"] == weights_path(NAME).name


def test_a_folder_that_looks_like_the_training_data_is_named() -> None:
    trained_on = [{"name": "mvtec_ad", "adapters": "anomalyclip/mvtec_ad"}]
    said = notices.seen_before(trained_on, ["/data/photos", "/data/MVTec_anomaly/bottle"])
    assert said is not None
    assert said.startswith("'/data/MVTec_anomaly/bottle' looks like mvtec_ad, which this model was trained on")
    assert notices.seen_before(trained_on, ["/data/visa", "/data/photos"]) is None
    assert notices.seen_before([{"name": "visa"}], ["/advisability"]) is None


def test_the_notice_goes_with_results(both: Published) -> None:
    model = load_model("anomalyclip/mvtec_ad")
    said = model.method.licence_notice
    assert isinstance(said, str)
    assert said.startswith("AnomalyCLIP with adapters 'anomalyclip/mvtec_ad' (trained on MVTec AD, CC BY-NC-SA 4.0")
    assert "forbid commercial use" in said
    assert notices.notice_of([{"name": "mine"}]) is None
    assert load_clip("zsad-mini").name == model.method.clip.name
