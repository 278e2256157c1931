"""Relevance of patches for any image score of the class token, through Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.conftest import make_clip
from zsad.clip import Clip
from zsad.clip.relevance import margin_target, relevance
from zsad.images import to_tensor
from zsad.inference import Predictor
from zsad.inference.explain import Explained
from zsad.methods import CLIP, VAND, AnomalyCLIP, CoOp, TransMM, get_method, list_methods

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # untrained models say that they are

ABLE = [name for name in list_methods() if hasattr(get_method(name), "class_token_embedding")]
NAMES = ["screw", "metal_nut", "carpet", "screw"]


@pytest.fixture
def picture() -> Image.Image:
    """A picture of 40 x 32 pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8))


def test_the_methods_that_compare_the_class_token_with_text() -> None:
    assert set(ABLE) == {"clip", "clipac", "maskclip", "winclip", "vand", "coop", "anomalyclip", "transmm"}


@pytest.mark.parametrize("name", ABLE)
def test_what_is_explained_is_what_the_score_ranks_by(name: str, tiny: Clip, image: Tensor) -> None:
    method = get_method(name)(tiny).eval()
    got = Explained(method)(image, NAMES)
    torch.testing.assert_close(got.pred_score, method(image, NAMES).pred_score, atol=1e-5, rtol=0)
    assert got.anomaly_map.shape == (4, 32, 32)
    assert got.anomaly_map.amin(dim=(1, 2)).max() == 0
    assert got.anomaly_map.amax(dim=(1, 2)).min() == 1


@pytest.mark.parametrize("kind", [CoOp, AnomalyCLIP])
@pytest.mark.parametrize("norm", [True, False])
def test_the_embedding_is_the_methods_own(kind: Any, norm: bool, tiny: Clip, image: Tensor) -> None:
    method = kind(tiny, cls_ln_post=norm).eval()
    torch.testing.assert_close(
        Explained(method)(image, NAMES).pred_score, method(image, NAMES).pred_score, atol=1e-5, rtol=0
    )


def test_it_is_the_relevance_of_the_margin(tiny: Clip, picture: Image.Image) -> None:
    model = Predictor(CLIP(tiny), "cpu")
    result = model.explain(picture, "metal nut", first_block=2, size="model")
    image = to_tensor(picture, model.method.protocol)[None]
    target = margin_target(model.method.text(["metal nut"]), 0.07)
    patches = relevance(tiny, image, target, 2).patches.view(1, 1, 4, 4)
    expected = torch.nn.functional.interpolate(patches, (32, 32), mode="bilinear")[0, 0].numpy()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(result.anomaly_map, expected, atol=1e-4)
    same = Predictor(TransMM(tiny, target="margin", first_block=2), "cpu").predict(picture, "metal nut", size="model")
    np.testing.assert_allclose(result.anomaly_map, same.anomaly_map, atol=1e-5)
    assert result.pred_score == pytest.approx(model.predict(picture, "metal nut").pred_score, abs=1e-6)
    assert np.abs(result.anomaly_map - model.explain(picture, "metal nut", size="model").anomaly_map).max() > 1e-3


def test_inputs_and_outputs_are_those_of_predict(picture: Image.Image, tmp_path: Path) -> None:
    model = Predictor(VAND(make_clip()), "cpu", batch_size=2)
    for number in range(3):
        picture.rotate(90 * number, expand=True).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    results = list(model.explain(tmp_path, "nut"))
    assert [result.error is None for result in results] == [True, True, True, False]
    assert [result.anomaly_map.shape for result in results[:3]] == [(40, 32), (32, 40), (40, 32)]
    again = model.explain(tmp_path / "1.png", "nut")
    np.testing.assert_allclose(again.anomaly_map, results[1].anomaly_map, atol=1e-5)
    assert again.overlay().size == (40, 32)
    assert again.save(tmp_path / "why.png").is_file()


@pytest.mark.parametrize("name", ["anovl", "alfa", "aaclip", "adaclip", "visualad"])
def test_other_scores_have_none_and_say_so(name: str, tiny: Clip, picture: Image.Image) -> None:
    model = Predictor(get_method(name)(tiny), "cpu")
    kind = type(model.method).__name__
    with pytest.raises(ValueError, match=rf"score of {kind} is not the class token's alone.*'clip'"):
        model.explain(picture)


def test_there_must_be_such_a_block(tiny: Clip, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"first_block must lie in 1\.\.4 for 'tiny-test-0', got 7"):
        Predictor(CLIP(tiny), "cpu").explain(picture, first_block=7)
