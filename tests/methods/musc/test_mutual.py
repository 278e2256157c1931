"""Mutual scoring against distances by SciPy, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import cdist
from torch import Tensor

from zsad.methods.musc.aggregation import joint_norm, pooled, similarity_pooled
from zsad.methods.musc.mutual import (
    cosine_table,
    interval_bounds,
    interval_mean,
    mutual_scores,
    nearest_within,
    tile_size,
)


def unit(images: int = 7, patches: int = 12, width: int = 16, seed: int = 0) -> Tensor:
    """Random unit-length features."""
    noise = torch.randn(images, patches, width, generator=torch.Generator().manual_seed(seed))
    return F.normalize(noise, dim=-1)


def expected_scores(features: Tensor, low: int, high: int) -> np.ndarray:
    """The definition, patch by patch: sorted distances to the nearest patch of each other image."""
    images = features.double().numpy()
    result = np.empty(images.shape[:2])
    for i, image in enumerate(images):
        nearest = np.stack([cdist(image, other).min(axis=1) for j, other in enumerate(images) if j != i], axis=1)
        result[i] = np.sort(nearest, axis=1)[:, low:high].mean(axis=1)
    return result


@pytest.mark.parametrize("memory", [1e9, 3000.0, 1.0], ids=["one table", "blocks of rows", "row by row"])
@pytest.mark.parametrize(
    ("interval", "low", "high"),
    [
        ((0.0, 0.3), 0, 1),
        ((0.0, 0.5), 0, 3),
        ((0.5, 0.0), 0, 3),  # swapped
        ((0.2, 0.9), 1, 5),
        ((0.0, 1.0), 0, 1),  # from 1 on a count
        ((2, 4), 2, 4),
        ((0.0, 50), 0, 6),  # more than there are
        ((50, 60), 5, 6),
    ],
)
def test_scores_are_means_of_sorted_distances(
    interval: tuple[float, float], low: int, high: int, memory: float
) -> None:
    features = unit()
    got = mutual_scores(features, interval, memory=memory)[0]
    np.testing.assert_allclose(got.numpy(), expected_scores(features, low, high), atol=2e-6)


@pytest.mark.parametrize(("images", "count"), [(2, 1), (3, 1), (4, 1), (5, 1), (8, 2), (11, 3), (21, 6)])
def test_at_least_one_image_is_averaged_over(images: int, count: int) -> None:
    assert interval_bounds((0.0, 0.3), images - 1) == (0, count)
    features = unit(images)
    got = mutual_scores(features)[0]
    np.testing.assert_allclose(got.numpy(), expected_scores(features, 0, count), atol=2e-6)


def test_one_image_is_no_folder() -> None:
    with pytest.raises(ValueError, match="compares images with each other: it needs at least 2, got 1"):
        mutual_scores(unit(1))


def test_the_order_of_images_does_not_matter() -> None:
    features = unit(40, 300)  # several tiles
    assert tile_size(300) < 40
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mutual_scores(features[order])[0], mutual_scores(features)[0][order], atol=1e-6, rtol=0)


def test_a_copy_is_at_no_distance() -> None:
    features = unit(3)
    twice = torch.cat([features, features[:1]])
    scores = mutual_scores(twice, (0, 1))[0]
    assert scores[[0, 3]].max() < 1e-3  # single precision leaves the root of 1e-7
    assert scores[[1, 2]].min() > 0.1


def test_parts_of_the_folder_are_compared_with_their_own_number_of_others() -> None:
    features = unit(9)
    columns = [torch.arange(9), torch.tensor([0, 2, 4, 6])]
    for memory in (1e9, 1.0):
        whole, part = mutual_scores(features, columns=columns, memory=memory)
        torch.testing.assert_close(whole, mutual_scores(features)[0], atol=1e-6, rtol=0)
        # a member is compared with the three others of the part, anybody else with all four
        torch.testing.assert_close(part[[0, 2, 4, 6]], mutual_scores(features[::2][:4])[0], atol=1e-6, rtol=0)
        table = cosine_table(features[[1, 8]], lambda first, stop: features[::2][:4][first:stop], 4)
        torch.testing.assert_close(
            part[[1, 8]], interval_mean(table, interval_bounds((0.0, 0.3), 4)), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("search", [0, 1, 9])
def test_search_compares_only_what_lies_near(search: int) -> None:
    grid, a, b = (3, 4), unit(2, seed=1), unit(3, seed=2)
    there, back = nearest_within(a, b, grid, search)
    places = np.stack(np.unravel_index(np.arange(12), grid), axis=1)
    near = cdist(places, places, "chebyshev") <= search
    cosines = np.einsum("ipc,jqc->ipjq", a.numpy(), b.numpy())
    allowed = np.where(near[None, :, None, :], cosines, -np.inf)
    np.testing.assert_allclose(there.numpy(), allowed.max(axis=3), atol=1e-6)
    np.testing.assert_allclose(back.numpy(), allowed.max(axis=1).transpose(1, 2, 0), atol=1e-6)
    if search == 9:  # everywhere
        torch.testing.assert_close(mutual_scores(a, grid=grid, search=search), mutual_scores(a), atol=1e-6, rtol=0)


def test_progress_ends_at_one() -> None:
    for memory in (1e9, 1.0):
        told: list[float] = []
        mutual_scores(unit(60, 64), memory=memory, tick=told.append)
        assert told == sorted(told)
        assert told[-1] == 1


@pytest.mark.parametrize("r", [1, 3, 5])
def test_pooling_is_a_box_filter_with_zeros_outside(r: int) -> None:
    grid, tokens = (4, 6), 3 + torch.randn(2, 24, 5, generator=torch.Generator().manual_seed(0))
    x = tokens.double().numpy()
    flat = x.reshape(2, -1)
    norm = (x - flat.mean(axis=1)[:, None, None]) / np.sqrt(flat.var(axis=1) + 1e-5)[:, None, None]
    planes = norm.reshape(2, *grid, 5)
    mean = uniform_filter(planes, size=(1, r, r, 1), mode="constant").reshape(2, 24, 5)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(pooled(joint_norm(tokens), grid, r).numpy(), expected, atol=1e-6)


def test_likeness_pooling_by_definition() -> None:
    grid, tokens = (3, 4), torch.randn(1, 12, 5, generator=torch.Generator().manual_seed(0))
    planes = np.pad(tokens.double().numpy().reshape(3, 4, 5), ((2, 2), (2, 2), (0, 0)))
    expected = np.zeros((12, 5))
    for place in range(12):
        row, column = divmod(place, 4)
        own = planes[row + 2, column + 2]
        for reach in (0, 1, 2):
            around = planes[row + 2 - reach : row + 3 + reach, column + 2 - reach : column + 3 + reach].reshape(-1, 5)
            weights = np.exp(-np.linalg.norm(around - own, axis=1))
            expected[place] += weights @ around / weights.sum() / 3
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(similarity_pooled(tokens, grid, (1, 3, 5))[0].numpy(), expected, atol=1e-6)
