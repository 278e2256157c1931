"""VAND beyond what the fixtures pin: training, references, the authors' files, scores by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader

from zsad.clip import Clip
from zsad.methods import VAND, CheckpointError
from zsad.methods.vand import class_minmax
from zsad.types import Batch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # untrained models say that they are

NAMES = ["nut", "tile", "nut", "nut"]


@pytest.fixture
def batch(image: Tensor) -> Batch:
    """A batch with a square defect in two images."""
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    mask[[0, 2], 8:20, 8:20] = True
    return cast(Batch, {"image": image, "class_name": NAMES, "image_path": list("abcd"), "gt_mask": mask})


def test_published_layers_are_the_quarters_of_the_depth(tiny: Clip) -> None:
    assert VAND(tiny).layers == (1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"layers must rise and lie in 1\.\.4 for .*, got \[2, 5\]"):
        VAND(tiny, layers=(2, 5))


def test_training_lowers_the_loss_and_moves_the_linear_layers_only(tiny: Clip, batch: Batch) -> None:
    model = VAND(tiny)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert (
        names == {f"fc.{index}.{part}" for index in range(4) for part in ("weight", "bias")} == set(model.state_dict())
    )
    optimizer = model.configure_optimizers()
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(model.loss(batch)["loss"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_cached_features_give_the_same_loss_and_gradient(tiny: Clip, batch: Batch) -> None:
    model = VAND(tiny)
    expected = model.loss(batch)
    rest = {key: value for key, value in batch.items() if key != "image"}
    cached = cast(Batch, {**rest, "features": model.frozen_features(batch["image"])})
    got = model.loss(cached)
    assert {name: value.item() for name, value in got.items()} == {
        name: value.item() for name, value in expected.items()
    }
    assert got["loss"].requires_grad


def test_masks_are_needed_and_the_seed_decides_the_start(tiny: Clip, batch: Batch) -> None:
    without = cast(Batch, {key: value for key, value in batch.items() if key != "gt_mask"})
    with pytest.raises(ValueError, match="VAND learns from gt_mask, a has none"):
        VAND(tiny).loss(without)
    weights = [VAND(tiny, seed=seed).state_dict()["fc.0.weight"] for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_references_equal_to_the_image_add_nothing_and_others_their_distance(tiny: Clip, image: Tensor) -> None:
    model = VAND(tiny)
    zero_shot = model(image, ["nut"] * 4)
    model.fit_references("nut", image[:2])
    few_shot = model(image, ["nut"] * 4)
    added = few_shot.anomaly_map - zero_shot.anomaly_map
    assert added[:2].abs().max() < 1e-5
    assert added[2:].amax(dim=(1, 2)).min() > 1e-3
    assert added.max() <= 2 * len(model.layers)
    assert torch.equal(few_shot.pred_score, zero_shot.pred_score)


def test_class_minmax_is_the_mean_with_the_place_between_the_extremes() -> None:
    got = class_minmax(torch.tensor([0.2, 0.4]), torch.tensor([1.0, 2.0]), 1.0, 3.0)
    torch.testing.assert_close(got, torch.tensor([0.1, 0.45]))
    assert class_minmax(torch.tensor([0.2]), torch.tensor([2.0]), 2.0, 2.0).item() == pytest.approx(0.1)


@pytest.mark.parametrize("processes", [1, 2])
def test_published_few_shot_scores_exist_at_the_end_of_a_run(tiny: Clip, processes: int) -> None:
    model = VAND(tiny, few_shot_score="class_minmax")
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(12) % 2
    names = ["nut"] * 8 + ["tile"] * 4
    for name in ("nut", "tile"):
        model.fit_references(name, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4)))
    samples = [
        {"image": images[i], "class_name": names[i], "image_path": str(i), "gt_label": int(labels[i]),
         "gt_mask": torch.zeros(32, 32, dtype=torch.bool).index_fill(0, torch.tensor([3]), bool(labels[i]))}
        for i in range(12)
    ]  # fmt: skip
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_spawn" if processes > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    got = trainer.test(model, DataLoader(samples, batch_size=5), verbose=False)[0]  # type: ignore[arg-type]
    prediction = model(images, names)
    highest = prediction.anomaly_map.amax(dim=(1, 2))
    for name in ("nut", "tile"):
        chosen = [i for i in range(12) if names[i] == name]
        own = highest[chosen]
        scores = 0.5 * (prediction.pred_score[chosen] + (own - own.min()) / (own.max() - own.min()))
        assert got[f"test/image_auroc/{name}"] == pytest.approx(roc_auc_score(labels[chosen], scores), abs=1e-6)
        assert f"test/pixel_auroc/{name}" in got


# ---- the authors' files


def stored(model: VAND, path: Path, **changes: Any) -> Path:
    torch.save({"trainable_linearlayer": {**model.fc.state_dict(prefix="fc."), **changes}}, path)
    return path


def test_the_authors_layout_is_read(tiny: Clip, image: Tensor, tmp_path: Path) -> None:
    model = VAND(tiny, seed=7)
    loaded = VAND.from_author_checkpoint(stored(model, tmp_path / "mvtec_pretrained.pth"), tiny)
    assert torch.equal(loaded(image, NAMES).anomaly_map, model(image, NAMES).anomaly_map)
    assert loaded.trained_on[0]["name"] == "mvtec_ad"
    other = VAND.from_author_checkpoint(stored(model, tmp_path / "mine.pth"), tiny)
    assert "mine.pth" in other.trained_on[0]["name"]


def test_other_files_are_refused_with_what_they_hold(tiny: Clip, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such checkpoint"):
        VAND.from_author_checkpoint(tmp_path / "none.pth", tiny)
    path = tmp_path / "file.pth"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"needs 'trainable_linearlayer', it holds \['state_dict'\]"):
        VAND.from_author_checkpoint(path, tiny)
    with pytest.raises(CheckpointError, match=r"first at 'fc.0.weight': expected shape \(16, 32\), found \(16, 8\)"):
        VAND.from_author_checkpoint(stored(VAND(tiny), path, **{"fc.0.weight": torch.zeros(16, 8)}), tiny)
    with pytest.raises(CheckpointError, match=r"first at 'fc.4.bias'"):
        VAND.from_author_checkpoint(stored(VAND(tiny), path, **{"fc.4.bias": torch.zeros(16)}), tiny)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        VAND.from_author_checkpoint(path, tiny)
