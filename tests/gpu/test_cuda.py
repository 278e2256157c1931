"""What runs on the first CUDA device gives what the CPU gives, which the parity fixtures hold to the authors' code."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.conftest import make_clip, with_panels
from zsad.inference import Predictor, load_model
from zsad.methods import METHODS
from zsad.metrics import Evaluator
from zsad.synthetic import generate

pytestmark = pytest.mark.gpu
NAMES, PATHS = ["bolt", "nut"] * 2, ["a.png", "b.png", "c.png", "d.png"]
TRAINED = [name for name, kind in METHODS.items() if kind.learns()]


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Products in float32, as on the CPU; trained methods say that they are not trained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        yield
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def pair(name: str) -> tuple[Any, Any]:
    """A method on the CPU, and its copy on the device."""
    kind: Any = METHODS[name]
    model = kind(make_clip()).eval()
    with_panels(model, NAMES)
    return model, copy.deepcopy(model).to("cuda")


@pytest.mark.parametrize("name", list(METHODS))
def test_predictions_are_those_of_the_cpu(name: str, image: Tensor) -> None:
    model, there = pair(name)
    with torch.no_grad():
        expected, found = model(image, NAMES, PATHS), there(image.cuda(), NAMES, PATHS)
    assert found.anomaly_map.is_cuda
    torch.testing.assert_close(found.anomaly_map.cpu(), expected.anomaly_map, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.pred_score.cpu(), expected.pred_score, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", list(METHODS))
def test_half_precision_is_near(name: str, precision: Any, image: Tensor) -> None:
    model, there = pair(name)
    there.clip.cast(precision)
    there.forget_text()
    with torch.no_grad():
        expected, found = model(image, NAMES, PATHS), there(image.cuda(), NAMES, PATHS)
    assert found.anomaly_map.dtype == torch.float32
    assert (found.anomaly_map.cpu() - expected.anomaly_map).abs().mean() < 0.05


class Pictures(Dataset[dict[str, Any]]):
    """Four images with a defect in each."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        mask = torch.zeros(32, 32, dtype=torch.bool)
        mask[4 * index : 4 * index + 8, 4:12] = True
        return {"image": image, "gt_mask": mask, "gt_label": 1, "class_name": NAMES[index], "image_path": PATHS[index]}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", TRAINED)
def test_two_training_steps(name: str, precision: Any) -> None:
    kind: Any = METHODS[name]
    model = kind(make_clip())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
    }
    trainer = Trainer(accelerator="cuda", devices=1, max_steps=2, precision=precision, **quiet)
    trainer.fit(model, DataLoader(Pictures(), batch_size=2))
    after = model.state_dict()
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())
    assert any(not torch.equal(before[key], value.cpu()) for key, value in after.items() if value.is_floating_point())


def test_binned_metrics_are_the_same_bits() -> None:
    random = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(6, 64, 64, generator=random), torch.rand(6, 64, 64, generator=random) > 0.9
    scores, labels = torch.rand(6, generator=random), torch.tensor([0, 1, 0, 1, 1, 0])
    results = []
    for device in ("cpu", "cuda"):
        evaluator = Evaluator(score_range=(0.0, 1.0)).to(device)
        evaluator.update(["bolt"] * 6, scores.to(device), labels.to(device), maps.to(device), masks)
        results.append(evaluator.compute())
    assert results[0].mean == results[1].mean


def test_batches_that_overlap_on_the_device_give_what_single_ones_give(tmp_path: Path) -> None:
    paths = []
    for number in range(11):
        path = tmp_path / f"{number:02d}.png"
        Image.fromarray(generate("gear", "hole" if number % 2 else "", seed=number).image).save(path)
        paths.append(path)
    model = load_model("clip", "zsad-mini", device="cuda", batch_size=3)
    found = [one for batch in model.batches(paths, "gear", size="model", num_workers=2) for one in batch]
    expected = Predictor(model.method, "cuda", batch_size=1).predict(paths, "gear", size="model")
    assert [one.image_path for one in found] == [str(path) for path in paths]
    for one, other in zip(found, expected, strict=True):
        assert one.pred_score == pytest.approx(other.pred_score, abs=1e-4)
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, atol=1e-4)
