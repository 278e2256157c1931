"""TransMM beyond what the fixtures pin: options, ranges, scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.conftest import make_clip
from zsad.clip import Clip
from zsad.functional.maps import unit_range
from zsad.methods import CLIP, TransMM

NAMES = ["metal_nut", "tile", "metal_nut", "nut"]


def test_the_image_score_is_clips(tiny: Clip, image: Tensor) -> None:
    torch.testing.assert_close(
        TransMM(tiny)(image, NAMES).pred_score, CLIP(tiny)(image, NAMES).pred_score, atol=1e-6, rtol=0
    )


def test_text_and_target_decide_the_map(tiny: Clip, image: Tensor) -> None:
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "written out": {"text": "a photo of an anomalous {}", "class_words": "readable"},
        "one word": {"text": "anomalous"},
        "margin": {"target": "margin"},
        "own": {"target": lambda feature: feature[:, 0]},
        "all": {"first_block": 1},
    }
    maps = {
        label: TransMM(tiny, normalise="none", **given)(image, NAMES).anomaly_map for label, given in options.items()
    }
    assert torch.equal(maps.pop("written out"), maps["default"])
    values = list(maps.values())
    for number, one in enumerate(values):
        assert one.min() >= 0
        assert all((one - other).abs().max() > 1e-6 for other in values[number + 1 :])
    free = TransMM(tiny, text="anomalous")
    assert torch.equal(free.text(["tile"])[0, 2], free.text(["nut"])[0, 2])
    assert not torch.equal(free.text(["tile"])[0, 1], free.text(["nut"])[0, 1])


def test_chunks_bound_memory_and_change_nothing(tiny: Clip, image: Tensor) -> None:
    expected = TransMM(tiny, first_block=1)(image, NAMES)
    got = TransMM(tiny, first_block=1, chunk=3)(image, NAMES)
    torch.testing.assert_close(got.anomaly_map, expected.anomaly_map, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.pred_score, expected.pred_score, atol=1e-6, rtol=0)


def test_each_map_fills_its_range_and_a_constant_one_is_zero(tiny: Clip, image: Tensor) -> None:
    maps = TransMM(tiny)(image, NAMES).anomaly_map
    assert torch.equal(maps.amin(dim=(1, 2)), torch.zeros(4))
    assert torch.equal(maps.amax(dim=(1, 2)), torch.ones(4))
    both = unit_range(torch.stack([torch.full((3, 3), 0.2), torch.arange(9.0).view(3, 3)]))
    assert torch.equal(both[0], torch.zeros(3, 3))
    assert torch.equal(both[1], torch.arange(9.0).view(3, 3) / 8)


def test_an_unnormalised_map_has_no_declared_range(tiny: Clip) -> None:
    assert TransMM(tiny).score_range == (0.0, 1.0)
    model = TransMM(tiny, normalise="none")
    assert model.score_range is None
    assert model.evaluator.score_range is None


def test_a_trainers_test_is_a_call(image: Tensor) -> None:
    model = TransMM(make_clip(), first_block=1)
    expected = model(image, NAMES)
    samples = [
        {"image": one, "class_name": "nut", "image_path": str(number), "gt_label": number % 2}
        for number, one in enumerate(image)
    ]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    loader: Any = DataLoader(samples, batch_size=2)  # type: ignore[arg-type]
    got = trainer.predict(model, loader)
    assert got is not None
    maps = torch.cat([one.anomaly_map for one in got])  # type: ignore[union-attr]
    torch.testing.assert_close(maps[:1], model(image[:1], ["nut"]).anomaly_map, atol=1e-5, rtol=0)
    assert not torch.equal(maps[:1], expected.anomaly_map[:1])  # another class, another text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_block": 5}, r"first_block must lie in 1\.\.4 for 'tiny-test-0', got 5"),
        ({"target": "score"}, r"target must be 'text', 'margin' or a function, got 'score'"),
        ({"normalise": "set"}, r"normalise must be 'image' or 'none', got 'set'"),
        ({"temperature": 0}, r"temperature must be > 0, got 0"),
        ({"chunk": 0}, r"chunk must be at least 1 image, got 0"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str, tiny: Clip) -> None:
    with pytest.raises(ValueError, match=message):
        TransMM(tiny, **options)
