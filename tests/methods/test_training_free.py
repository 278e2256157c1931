"""CLIP, CLIP-AC, MaskCLIP and AnoVL's training-free part beyond what the fixtures pin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import make_clip
from zsad.clip import Clip
from zsad.methods import CLIP, CLIPAC, AnoVL, MaskCLIP
from zsad.types import ImageProtocol


@torch.no_grad()
def test_image_score_of_clip_is_open_clips_zero_shot_probability(tiny: Clip, image: Tensor) -> None:
    model = CLIP(tiny)
    texts = ["a photo of a normal metal nut", "a photo of an anomalous metal nut"]
    features = tiny.model.encode_text(tiny.tokenize(texts), normalize=True)
    expected = (tiny.model.encode_image(image, normalize=True) @ features.T / 0.07).softmax(-1)[:, 1]
    torch.testing.assert_close(model(image, ["metal_nut"] * 4).pred_score, expected, atol=1e-5, rtol=0)


def test_class_words(tiny: Clip) -> None:
    assert torch.equal(CLIP(tiny).text(["metal_nut"]), CLIP(tiny, class_words="raw").text(["metal nut"]))
    assert not torch.equal(CLIP(tiny).text(["metal_nut"]), CLIP(tiny, class_words="raw").text(["metal_nut"]))


def test_clip_ac_with_80_templates(tiny: Clip) -> None:
    model = CLIPAC(tiny, templates="imagenet80")
    assert [len(side) for side in model.prompts.compose("nut")] == [80, 80]
    with pytest.raises(ValueError, match="templates must be 'imagenet7' or 'imagenet80', got '9'"):
        CLIPAC(tiny, templates="9")  # type: ignore[arg-type]


@torch.no_grad()
def test_maskclip_patches_ignore_other_patches_in_the_last_block(image: Tensor) -> None:
    shallow = make_clip(layers=1)  # only the last block could mix tokens, and the value path does not
    other = image.clone()
    other[:, :, :, 8:] += 1  # all patches but the first column
    maps = [MaskCLIP(shallow, "clip").image_tokens(x)[1].unflatten(1, (4, 4)) for x in (image, other)]
    torch.testing.assert_close(maps[0][:, :, 0], maps[1][:, :, 0], atol=1e-6, rtol=0)
    assert (maps[0][:, :, 1:] - maps[1][:, :, 1:]).abs().min(dim=-1).values.max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vv_blocks": 0}, r"vv_blocks must be at least 1, got 0"),
        ({"pool": 2}, r"pool must be an odd number of patches, got 2"),
        ({"prompt_set": "none"}, r"prompt_set must be one of .*, got 'none'"),
        ({"views": "5"}, r"views must be .*got '5'"),
    ],
)
def test_anovl_refuses_impossible_options(options: dict[str, Any], message: str, tiny: Clip) -> None:
    with pytest.raises(ValueError, match=message):
        AnoVL(tiny, **options)


@pytest.mark.parametrize(("prompt_set", "count"), [("full", 462), ("states", 154), ("base", 22)])
def test_anovl_prompt_sets_of_table_4(prompt_set: Any, count: int, tiny: Clip) -> None:
    model = AnoVL(tiny, prompt_set=prompt_set)
    assert [len(side) for side in model.prompts.compose("bottle", domains=model.domains)] == [count, count]


@torch.no_grad()
def test_anovl_map_values_lie_in_their_range_and_score_averages_views(tiny: Clip, image: Tensor) -> None:
    model = AnoVL(tiny)
    prediction = model(image, ["tile"] * 4)
    assert 0.119 < prediction.anomaly_map.min() < prediction.anomaly_map.max() < 0.881
    alone = AnoVL(tiny, views="none")(image, ["tile"] * 4)
    assert torch.equal(alone.anomaly_map, prediction.anomaly_map)
    assert (alone.pred_score - prediction.pred_score).abs().max() > 1e-6
    constant = torch.full((1, 3, 32, 32), 0.3)  # all views but grey equal the image
    views = model.view_probability(constant, model.image_tokens(constant)[0], model.text(["tile"]))
    assert views.shape == (1, 22)
    torch.testing.assert_close(views[:, 1:17], views[:, :1].expand(-1, 16), atol=1e-6, rtol=0)


def test_image_size_is_published_with_the_published_model_and_native_otherwise(tiny: Clip) -> None:
    assert CLIP(tiny).protocol == ImageProtocol(size=32)
    assert CLIP(tiny, image_size=64).protocol.size == 64
    assert AnoVL(tiny).protocol == ImageProtocol(size=32, interpolation="bilinear")
    named = Clip(tiny.model, "ViT-L-14-336/mine.pt")
    assert CLIP(named).protocol.size == 518
