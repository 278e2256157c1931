"""What every method of the registry must do, whatever it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from tests.conftest import make_clip, with_panels
from zsad.clip import Clip
from zsad.methods import Method, get_method, list_methods

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # untrained methods say that they are

NAMES = ["screw", "metal_nut", "carpet", "screw"]


@pytest.fixture(params=list_methods())
def method(request: pytest.FixtureRequest, tiny: Clip) -> Method:
    """Each method on the tiny backbone, with its defaults; a transductive one with panels of 8 images."""
    torch.manual_seed(0)
    return with_panels(get_method(request.param)(tiny).eval(), [*NAMES, "nut"])


def test_prediction_has_the_promised_shape(method: Method, image: Tensor) -> None:
    prediction = method(image, NAMES)
    assert prediction.anomaly_map.shape == (4, 32, 32)
    assert prediction.pred_score.shape == (4,)
    assert prediction.anomaly_map.dtype == prediction.pred_score.dtype == torch.float32
    assert not prediction.anomaly_map.requires_grad
    assert prediction.anomaly_map.isfinite().all()
    assert prediction.pred_score.isfinite().all()
    if method.score_range is not None:
        low, high = method.score_range
        assert low <= prediction.anomaly_map.min() <= prediction.anomaly_map.max() <= high


def test_an_image_is_scored_alike_in_any_company(method: Method, image: Tensor) -> None:
    paths = [f"{i}.png" for i in range(4)]
    together = method(image, NAMES, paths)
    order = [2, 0, 3, 1]
    shuffled = method(image[order], [NAMES[i] for i in order], [paths[i] for i in order])
    torch.testing.assert_close(shuffled.anomaly_map, together.anomaly_map[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(shuffled.pred_score, together.pred_score[order], atol=1e-5, rtol=0)
    for i in range(4):
        alone = method(image[i : i + 1], NAMES[i : i + 1], paths[i : i + 1])
        torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.pred_score[0], together.pred_score[i], atol=1e-5, rtol=0)


def test_other_image_sizes_work(method: Method) -> None:
    assert method(torch.randn(1, 3, 48, 48), ["nut"]).anomaly_map.shape == (1, 48, 48)


def test_inference_mode_gives_the_same(method: Method, image: Tensor) -> None:
    paths = [f"{i}.png" for i in range(4)]
    expected = method(image, NAMES, paths)
    method.forget_text()
    with torch.inference_mode():
        got = method(image, NAMES, paths)
    torch.testing.assert_close(got.anomaly_map, expected.anomaly_map, atol=1e-5, rtol=0)


def test_double_precision_stays_close(method: Method, image: Tensor) -> None:
    model = type(method)(make_clip())
    model.load_state_dict(method.state_dict())
    expected = method(image, NAMES)
    got = with_panels(model.double(), NAMES)(image.double(), NAMES)
    torch.testing.assert_close(got.anomaly_map.float(), expected.anomaly_map, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.pred_score.float(), expected.pred_score, atol=1e-4, rtol=1e-4)


def test_checkpoint_round_trip(method: Method, image: Tensor, tmp_path: Path) -> None:
    running = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    running.strategy.connect(method)
    path = tmp_path / "method.ckpt"
    running.save_checkpoint(path)
    assert path.stat().st_size < 4_000_000
    loaded = type(method).load_from_checkpoint(path, backbone=method.clip)
    expected, got = method(image, NAMES), with_panels(loaded, NAMES)(image, NAMES)
    torch.testing.assert_close(got.anomaly_map, expected.anomaly_map, atol=1e-6, rtol=0)
    torch.testing.assert_close(got.pred_score, expected.pred_score, atol=1e-6, rtol=0)
    assert not any(key.startswith("clip.") for key in torch.load(path, weights_only=True)["state_dict"])
