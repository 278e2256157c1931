"""MVFA beyond what the fixtures pin: crops, references, the set-wide rule, training with and without masks, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.conftest import make_clip
from tests.methods.test_few_shot import quiet, write
from tests.methods.test_trained import Curve, Module, Pieces, trainer
from zsad.clip import Clip
from zsad.datamodules import Folder
from zsad.methods import MVFA, CheckpointError
from zsad.methods.mvfa.adapters import minmax
from zsad.methods.mvfa.checkpoint import sources_of
from zsad.methods.mvfa.fusion import Extremes, Fusion, Terms
from zsad.types import CLIP_MEAN, Batch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # untrained models say that they are

NAMES = ["nut", "tile", "nut", "nut"]


@pytest.fixture
def batch(image: Tensor) -> Batch:
    """A batch with a square defect in two images."""
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    mask[[0, 2], 8:20, 8:20] = True
    label = torch.tensor([1, 0, 1, 0])
    return cast(
        Batch, {"image": image, "class_name": NAMES, "image_path": list("abcd"), "gt_mask": mask, "gt_label": label}
    )


def without(batch: Batch, *keys: str) -> Batch:
    return cast(Batch, {key: value for key, value in batch.items() if key not in keys})


# ---- prediction


def test_what_no_patch_covers_is_cut_off_and_the_map_has_the_full_size(tiny: Clip) -> None:
    model = MVFA(tiny)
    image = torch.randn(2, 3, 37, 45, generator=torch.Generator().manual_seed(2))
    prediction = model(image, ["nut"] * 2)
    assert prediction.anomaly_map.shape == (2, 37, 45)
    other = image.clone()
    other[..., 32:, :] = 9.0
    other[..., 40:] = -9.0
    torch.testing.assert_close(model(other, ["nut"] * 2), prediction, atol=0, rtol=0)
    other[..., 31, 3] += 1
    assert not torch.equal(model(other, ["nut"] * 2).anomaly_map, prediction.anomaly_map)
    with pytest.raises(ValueError, match="Images of 7 x 40 pixels hold no patch of 8 x 8"):
        model(torch.zeros(1, 3, 7, 40), ["nut"])


def test_published_protocol_has_no_normalisation_unless_asked_for(tiny: Clip) -> None:
    assert MVFA(tiny).protocol.mean == (0, 0, 0)
    assert MVFA(tiny).protocol.mask_resize == "nearest"
    assert MVFA(tiny, normalise_image="clip").protocol.mean == CLIP_MEAN
    assert MVFA(tiny, image_size=240).protocol.size == 240


def test_retina_is_called_retinal_oct_and_other_names_stay(tiny: Clip) -> None:
    prompts = MVFA(tiny).prompts
    assert prompts.word("Retina", "readable") == "retinal OCT"
    assert prompts.word("Brain", "readable") == "Brain"
    assert prompts.word("metal_nut", "readable") == "metal nut"
    assert MVFA(tiny, prompts="winclip").prompts.word("Retina") == "retinal OCT"


@torch.no_grad()
def test_adapters_act_on_later_blocks_and_the_cached_state_on_none(tiny: Clip, image: Tensor) -> None:
    model = MVFA(tiny, layers=(2, 4))
    state = model.frozen_features(image)["state"]
    expected = tiny.run_image(tiny.embed_image(image), keep=(2,))[1][2]
    torch.testing.assert_close(state, expected, atol=1e-6, rtol=0)
    seen = model.adapted(state)
    x, tokens = state, {}
    for place, block in ((0, None), (1, 2), (1, 3)):
        if block is not None:
            x = tiny.model.visual.transformer.resblocks[block](x)
        if block in (None, 3):
            inner = {}
            for branch, adapters in (("seg", model.seg_adapters), ("det", model.det_adapters)):
                first, second = (getattr(adapters[place], name)[0].weight for name in ("fc1", "fc2"))
                inner[branch] = torch.nn.functional.leaky_relu(x @ first.T, 0.01)
                inner[f"{branch} out"] = torch.nn.functional.leaky_relu(inner[branch] @ second.T, 0.01)
            x = 0.8 * x + 0.1 * inner["seg out"] + 0.1 * inner["det out"]
            tokens[place] = inner
    torch.testing.assert_close(seen.state, x, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.tokens["det"][4], tokens[1]["det"], atol=1e-5, rtol=0)


# ---- references


@torch.no_grad()
@pytest.mark.parametrize("branch", ["seg", "det"])
def test_fixed_fusion_is_half_text_half_distance_by_their_ranges(tiny: Clip, image: Tensor, branch: Any) -> None:
    model = MVFA(tiny, few_shot_branch=branch)
    zero = model(image, ["nut"] * 4)
    model.fit_references("nut", image[:2])
    terms = model.terms(image, model.text(["nut"] * 4), ["nut"] * 4)
    fused = model(image, ["nut"] * 4)
    assert terms.few_map is not None
    torch.testing.assert_close(terms.zero_map, zero.anomaly_map)
    torch.testing.assert_close(fused.anomaly_map, terms.zero_map / 8 + terms.few_map / 16, atol=1e-6, rtol=0)
    expected = fused.anomaly_map.amax(dim=(1, 2))
    if branch == "det":
        expected = zero.pred_score / 8 + terms.few_map.mean(dim=(1, 2)) / 16
    torch.testing.assert_close(fused.pred_score, expected, atol=1e-6, rtol=0)
    assert terms.few_map[:2].abs().max() < 1e-5  # view 0 of a reference is the reference
    assert terms.few_map[2:].amax() > 1e-3


def test_the_memory_holds_all_views_with_class_tokens_unless_told_otherwise(tiny: Clip, image: Tensor) -> None:
    for options, entries in (
        ({}, 2 * 11 * 17),
        ({"memory_class_token": False}, 2 * 11 * 16),
        ({"reference_views": False}, 2 * 17),
    ):
        model = MVFA(tiny, **cast(Any, options))
        model.fit_references("nut", image[:2])
        assert len(model.memory.bank("nut", "seg.layer4")) == entries


def test_references_seen_through_other_adapters_are_forgotten(tiny: Clip, image: Tensor, tmp_path: Path) -> None:
    model = MVFA(tiny)
    model.fit_references("nut", image[:1])
    model.load_state_dict(MVFA(tiny, seed=3).state_dict())
    assert model.memory.classes == []
    model.fit_references("nut", image[:1])
    trainer(tmp_path, max_epochs=1).fit(model, Module())
    assert model.memory.classes == []


def test_set_wide_fusion_uses_the_extremes_of_each_class(tiny: Clip, tmp_path: Path) -> None:
    for number, name in enumerate(("nut", "tile")):
        for index in range(2):
            write(tmp_path / name / "train" / "good" / f"{index}.png", 10 * number + index)
        for index in range(3):
            write(tmp_path / name / "test" / ("good" if index else "bad") / f"{index}.png", 100 + 10 * number + index)
    model = MVFA(tiny, shots=1, few_shot_score="set_minmax")
    got = quiet().predict(model, Folder(tmp_path, batch_size=4))
    assert got is not None
    maps = torch.cat([one.anomaly_map for one in got])  # type: ignore[union-attr]
    scores = torch.cat([one.pred_score for one in got])  # type: ignore[union-attr]
    data = Folder(tmp_path, protocol=model.protocol).dataset("test")
    for name in ("nut", "tile"):
        places = [place for place in range(len(data)) if data[place]["class_name"] == name]
        image = torch.stack([data[place]["image"] for place in places])
        terms = model.terms(image, model.text([name] * 3), [name] * 3)
        zero, few = terms.zero_map.numpy(), cast(Tensor, terms.few_map).numpy()
        expected = 0.5 * (zero - zero.min()) / np.ptp(zero) + 0.5 * (few - few.min()) / np.ptp(few)
        np.testing.assert_allclose(maps[places].numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(scores[places].numpy(), expected.max(axis=(1, 2)), atol=1e-5)
    model.fit_references("screw", image[:1])
    with pytest.raises(ValueError, match=r"needs all test images of the classes \['screw'\] beforehand"):
        model(image[:1], ["screw"])


def test_terms_without_spread_count_nothing() -> None:
    constant = torch.full((2, 3, 3), 0.7)
    terms = Terms(constant, torch.tensor([1.0, 2.0]), constant)
    assert torch.equal(minmax(constant), torch.zeros(2, 3, 3))
    fused = Fusion("det", 4)(terms, [Extremes.of(terms)] * 2)
    assert torch.equal(fused.pred_score, torch.tensor([0.0, 0.5]))


# ---- training


def test_steps_without_masks_leave_the_segmentation_adapters_alone(tiny: Clip, batch: Batch) -> None:
    model = MVFA(tiny, lr=1e-2)
    frozen = {f"{branch}_adapters.3.fc2.0.weight" for branch in ("seg", "det")}
    assert {name for name, one in model.named_parameters() if one.requires_grad} == set(model.state_dict()) - frozen
    optimizer = model.configure_optimizers()
    for masks in (True, False, True):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer.zero_grad()
        found = model.loss(batch if masks else without(batch, "gt_mask"))
        assert any(name.startswith("focal") for name in found) is masks
        found["loss"].backward()
        model.on_before_optimizer_step(optimizer)
        optimizer.step()
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        expected = {name for name in before if name.startswith("det") or masks} - frozen
        assert moved == expected


def test_the_image_loss_is_cross_entropy_with_logits_of_a_probability(tiny: Clip, batch: Batch) -> None:
    model = MVFA(tiny, image_loss_weight=2.0, pixel_loss_weight=3.0)
    losses = model.loss(batch)
    tokens = model.adapted(model.frozen_features(batch["image"])["state"]).tokens["det"]
    text = model.text(NAMES)
    prob = model.layer_score(tokens[2], text).detach().double().numpy()
    label = batch["gt_label"].numpy()
    sigmoid = 1 / (1 + np.exp(-prob))
    expected = -(label * np.log(sigmoid) + (1 - label) * np.log(1 - sigmoid)).mean()
    assert losses["bce.l2"].item() == pytest.approx(expected, abs=1e-6)
    parts = {name: value.item() for name, value in losses.items() if name != "loss"}
    total = sum((2 if name.startswith("bce") else 3) * value for name, value in parts.items())
    assert losses["loss"].item() == pytest.approx(total, rel=1e-6)


def test_cached_features_give_the_same_loss_and_gradient(tiny: Clip, batch: Batch) -> None:
    model = MVFA(tiny, layers=(2, 3))
    expected = model.loss(batch)
    cached = cast(Batch, {**without(batch, "image"), "features": model.frozen_features(batch["image"])})
    got = model.loss(cached)
    assert {name: value.item() for name, value in got.items()} == {
        name: value.item() for name, value in expected.items()
    }
    with pytest.raises(ValueError, match="MVFA learns from gt_label, a has none"):
        model.loss(without(batch, "gt_label"))


class Mixed(Dataset[Any]):
    """The pieces, every third without its mask, as in a data set of parts with and without masks."""

    augment = None

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = Pieces()[index]
        if index % 3 == 0:
            del sample["gt_mask"]
        return sample


class MixedModule(Module):
    """One image per batch, so that every batch is of one kind."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Mixed(), batch_size=1, shuffle=True)


@pytest.mark.parametrize(("data", "stop"), [(Module, 5), (MixedModule, 14)])
@pytest.mark.parametrize("cache", ["auto", "off"])
def test_a_killed_fit_resumes_to_the_same_curve(
    tiny: Clip, tmp_path: Path, data: type[Module], stop: int, cache: Any
) -> None:
    options = {"cache": cache, "cache_dir": str(tmp_path / "cache")}
    whole, expected = MVFA(tiny, **options), Curve()
    trainer(tmp_path / "whole", expected).fit(whole, data())
    curve, folder = Curve(stop), tmp_path / "killed"
    with pytest.raises(RuntimeError, match="killed"):
        trainer(folder, curve).fit(MVFA(tiny, **options), data())
    (saved,) = folder.rglob("*.ckpt")
    again, resumed = MVFA(tiny, **options), Curve()
    trainer(folder, resumed).fit(again, data(), ckpt_path=saved)
    assert resumed.losses == expected.losses[-len(resumed.losses) :]
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_two_processes_train(tiny: Clip, tmp_path: Path) -> None:
    model = MVFA(tiny, cache="off")
    running = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    start = model.state_dict()["seg_adapters.0.fc1.0.weight"].clone()
    running.fit(model, Module())
    assert not torch.equal(model.state_dict()["seg_adapters.0.fc1.0.weight"], start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (3, 2)}, r"layers must rise and lie in 1\.\.4 for .*, got \[3, 2\]"),
        ({"bottleneck": 8}, "bottleneck must be 16, the joint embedding of .*, got 8"),
        ({"adapter_share": 0.6}, r"adapter_share must be in \[0, 0.5\], got 0.6"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
        ({"few_shot_branch": "both"}, r"few_shot_branch must be one of \['seg', 'det'\], got 'both'"),
        ({"few_shot_score": "minmax"}, r"few_shot_score must be one of .*, got 'minmax'"),
        ({"normalise_image": "yes"}, r"normalise_image must be one of .*, got 'yes'"),
    ],
)
def test_options_out_of_range(tiny: Clip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MVFA(tiny, **options)


# ---- the authors' files


def author_file(model: MVFA) -> dict[str, dict[str, Tensor]]:
    return {part: getattr(model, part).state_dict() for part in ("seg_adapters", "det_adapters")}


def test_the_authors_layout_is_read_and_names_follow_the_target(tiny: Clip, image: Tensor, tmp_path: Path) -> None:
    model = MVFA(tiny, seed=7)
    path = tmp_path / "zero-shot" / "Liver.pth"
    path.parent.mkdir()
    torch.save(author_file(model), path)
    loaded = MVFA.from_author_checkpoint(path, tiny)
    torch.testing.assert_close(loaded(image, NAMES), model(image, NAMES), atol=0, rtol=0)
    assert [one["name"] for one in loaded.trained_on] == [
        "bmad_brain", "bmad_retina", "Retina_OCT2017", "Chest", "Histopathology"
    ]  # fmt: skip
    assert MVFA.from_author_checkpoint(path, tiny, "few-shot").trained_on == [{"name": "bmad_liver"}]
    (tmp_path / "few-shot").mkdir()
    other = tmp_path / "few-shot" / "mine.pth"
    torch.save(author_file(model), other)
    assert "mine.pth" in sources_of(other)[0]["name"]
    (tmp_path / "Liver.pth").write_bytes(path.read_bytes())
    assert "unknown data" in sources_of(tmp_path / "Liver.pth")[0]["name"]  # neither setting is said
    with pytest.raises(ValueError, match="setting must be 'zero-shot' or 'few-shot', got 'two-shot'"):
        sources_of(path, cast(Any, "two-shot"))


def test_other_files_are_refused_with_what_they_hold(tiny: Clip, tmp_path: Path) -> None:
    path = tmp_path / "Liver.pth"
    with pytest.raises(FileNotFoundError, match="No such checkpoint"):
        MVFA.from_author_checkpoint(path, tiny)
    torch.save({"seg_adapters": {}}, path)
    with pytest.raises(CheckpointError, match=r"needs \['seg_adapters', 'det_adapters'\], it holds \['seg_adapters'\]"):
        MVFA.from_author_checkpoint(path, tiny)
    content = author_file(MVFA(make_clip(layers=4)))
    del content["det_adapters"]["3.fc2.0.weight"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"first at 'det_adapters.3.fc2.0.weight'.*found None"):
        MVFA.from_author_checkpoint(path, tiny)
    content["det_adapters"]["3.fc2.0.weight"] = torch.zeros(32, 8)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"expected shape \(32, 16\), found \(32, 8\)"):
        MVFA.from_author_checkpoint(path, tiny)
