"""Maps against SciPy, torch's own functions and properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from zsad.functional.maps import probability, similarity, smooth, to_grid, top_mean, upsample


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.5, 4.0])
@pytest.mark.parametrize("shape", [(33, 20), (5, 3), (1, 9)])
def test_smooth_equals_scipy(sigma: float, shape: tuple[int, int]) -> None:
    maps = np.random.RandomState(0).rand(3, *shape)
    expected = np.stack([gaussian_filter(one, sigma) for one in maps])
    np.testing.assert_allclose(smooth(torch.from_numpy(maps), sigma).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(smooth(torch.from_numpy(maps).float(), sigma).numpy(), expected, atol=1e-6)


def test_smooth_of_zero_changes_nothing() -> None:
    maps = torch.rand(1, 4, 4)
    assert smooth(maps, 0) is maps


def test_smooth_rejects_negative_sigma() -> None:
    with pytest.raises(ValueError, match=r"sigma must be >= 0 pixels, got -1"):
        smooth(torch.zeros(1, 8, 8), -1)


def test_similarity_equals_cosine_for_any_length() -> None:
    features, text = torch.randn(2, 5, 7), torch.randn(2, 3, 7)
    expected = F.cosine_similarity(features[:, :, None], text[:, None], dim=-1)
    torch.testing.assert_close(similarity(10 * features, 0.1 * text), expected)
    torch.testing.assert_close(similarity(features[:, 0], text), expected[:, 0])


def test_similarity_is_float32_under_autocast() -> None:
    features, text = torch.randn(2, 5, 64), torch.randn(2, 3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = similarity(features.bfloat16(), text)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, similarity(features.bfloat16().float(), text))


def test_probability_is_a_logistic_of_the_difference() -> None:
    cosines = torch.tensor([[0.1, 0.3], [0.5, 0.5], [1.0, -1.0]])
    expected = 1 / (1 + np.exp(-np.array([0.2, 0.0, -2.0]) / 0.07))
    np.testing.assert_allclose(probability(cosines, 0.07).numpy(), expected, atol=1e-6)


def test_grid_is_row_by_row() -> None:
    assert to_grid(torch.arange(6.0)[None], (2, 3)).tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize("align_corners", [False, True])
def test_upsample_keeps_constants_and_corners(align_corners: bool) -> None:
    assert torch.equal(upsample(torch.full((2, 3, 3), 0.25), (12, 9), align_corners), torch.full((2, 12, 9), 0.25))
    maps = torch.rand(1, 3, 4)
    large = upsample(maps, (9, 12), align_corners)
    assert torch.equal(large[0, 0, 0], maps[0, 0, 0])
    assert upsample(maps[:, None], (9, 12), align_corners).shape == (1, 1, 9, 12)


@pytest.mark.parametrize(("ratio", "number"), [(0.01, 3), (0.1, 22), (1e-9, 1), (1.0, 216)])
def test_top_mean_is_the_mean_of_the_highest_pixels(ratio: float, number: int) -> None:
    maps = torch.randn(2, 12, 18, generator=torch.Generator().manual_seed(0))
    expected = [np.sort(one.numpy().ravel())[-number:].mean() for one in maps]
    np.testing.assert_allclose(top_mean(maps, ratio).numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\], got 0"):
        top_mean(maps, 0)
