"""WinCLIP beyond what the fixtures pin: windows are passes of their own, chunks, references equal to the image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from zsad.clip import Clip
from zsad.methods import WinCLIP


@torch.no_grad()
def test_a_window_is_open_clips_own_pass_over_its_tokens_alone(tiny: Clip, image: Tensor) -> None:
    model = WinCLIP(tiny, (2, 3))
    visual: Any = tiny.model.visual
    embedded = tiny.embed_image(image, ln_pre=False)
    windows = model.image_tokens(image).windows
    # second window of the first row (scale 2), last window (scale 3) of the 4 x 4 grid
    for scale, window, patches in ((2, 1, [1, 2, 5, 6]), (3, 3, [5, 6, 7, 9, 10, 11, 13, 14, 15])):
        tokens = embedded[1:2, [0, *(patch + 1 for patch in patches)]]
        expected = visual.ln_post(visual.transformer(visual.ln_pre(tokens)))[0, 0] @ visual.proj
        torch.testing.assert_close(windows[scale][1, window], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_window_does_not_see_patches_outside(tiny: Clip, image: Tensor) -> None:
    model = WinCLIP(tiny, (2,))
    other = image.clone()
    other[:, :, 16:] += 1  # the lower half
    before, after = (model.image_tokens(x).windows[2] for x in (image, other))
    torch.testing.assert_close(before[:, :3], after[:, :3], atol=1e-6, rtol=0)  # first row of windows
    assert (before[:, 3:] - after[:, 3:]).abs().amax(dim=-1).min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_chunks_do_not_change_the_result(chunk: int | None, tiny: Clip, image: Tensor) -> None:
    expected = WinCLIP(tiny, (2, 3))(image, ["nut"] * 4)
    got = WinCLIP(tiny, (2, 3), chunk=chunk)(image, ["nut"] * 4)
    torch.testing.assert_close(got.anomaly_map, expected.anomaly_map, atol=1e-6, rtol=0)


@torch.no_grad()
def test_references_equal_to_the_image_give_no_distance(tiny: Clip, image: Tensor) -> None:
    model = WinCLIP(tiny)
    zero_shot = model(image[:1], ["nut"])
    model.fit_references("nut", image)
    tokens = model.image_tokens(image[:1])
    for distances in model.distance_maps(tokens, ["nut"], (4, 4)).values():
        assert distances.isfinite().all()
        assert 0 <= distances.min() <= distances.max() < 1e-6
    few_shot = model(image[:1], ["nut"])
    torch.testing.assert_close(few_shot.anomaly_map, zero_shot.anomaly_map / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(few_shot.pred_score, zero_shot.pred_score / 2, atol=1e-6, rtol=0)


@torch.no_grad()
def test_references_of_another_image_raise_the_map_by_their_distance(tiny: Clip, image: Tensor) -> None:
    model = WinCLIP(tiny)
    zero_shot = model(image, ["nut"] * 4)
    model.fit_references("nut", image[:2])
    few_shot = model(image, ["nut"] * 4)
    distance = 2 * few_shot.anomaly_map - zero_shot.anomaly_map
    assert distance[:2].max() < 1e-5
    assert distance[2:].amin(dim=(1, 2)).min() > 1e-4
    assert distance.max() <= 1


@pytest.mark.parametrize("scales", [(), (2, 2), (0, 2)])
def test_impossible_scales_are_refused(scales: tuple[int, ...], tiny: Clip) -> None:
    with pytest.raises(ValueError, match="scales must be different window sides of at least 1 patch"):
        WinCLIP(tiny, scales)


def test_an_impossible_chunk_is_refused(tiny: Clip) -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1 window, got 0"):
        WinCLIP(tiny, chunk=0)


def test_a_scale_beyond_the_grid_names_both(tiny: Clip, image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"window of 5 x 5 patches does not fit into a grid of 4 x 4"):
        WinCLIP(tiny, (5,))(image, ["nut"] * 4)
