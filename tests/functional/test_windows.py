"""Windows and their harmonic means against loops and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import hmean

from zsad.functional.windows import cover, harmonic_mean, window_indices, window_map, window_tokens

GRIDS = [(4, 4), (3, 5), (2, 2)]


def loop_windows(grid: tuple[int, int], scale: int) -> list[list[int]]:
    rows, columns = grid
    return [
        [(top + i) * columns + left + j for i in range(scale) for j in range(scale)]
        for top in range(rows - scale + 1)
        for left in range(columns - scale + 1)
    ]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("scale", [1, 2])
def test_windows_and_cover_are_those_of_a_loop(grid: tuple[int, int], scale: int) -> None:
    expected = loop_windows(grid, scale)
    assert window_indices(grid, scale).tolist() == expected
    covered = cover(grid, scale)
    assert [row.nonzero().flatten().tolist() for row in covered] == [sorted(window) for window in expected]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("scale", [1, 2])
def test_window_map_is_the_harmonic_mean_over_covering_windows(grid: tuple[int, int], scale: int) -> None:
    windows = loop_windows(grid, scale)
    scores = torch.rand(2, len(windows), generator=torch.Generator().manual_seed(0))
    expected = np.array(
        [
            [hmean([s for s, w in zip(row, windows, strict=True) if p in w]) for p in range(grid[0] * grid[1])]
            for row in scores
        ]
    )
    np.testing.assert_allclose(window_map(scores, grid, scale).flatten(1).numpy(), expected, rtol=1e-5)


def test_scores_of_zero_or_below_stay_finite_and_do_not_change_sign() -> None:
    scores = torch.tensor([[0.0, -2e-7, 0.5, 0.5]])
    values = window_map(scores, (3, 3), 2)
    assert values.isfinite().all()
    assert values.min() > 0
    assert values[0, 2, 2] == 0.5
    assert harmonic_mean([torch.tensor([-1e-7]), torch.tensor([1.0])]).item() == pytest.approx(2e-8)


def test_harmonic_mean_broadcasts_like_the_image_score_over_a_map() -> None:
    image, maps = torch.rand(2, 1, 1) + 0.1, torch.rand(2, 3, 4) + 0.1
    expected = hmean([image.expand(2, 3, 4).numpy(), maps.numpy(), maps.numpy()])
    np.testing.assert_allclose(harmonic_mean([image, maps, maps]).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 12, 100, None])
def test_window_tokens_are_class_token_and_own_patches_in_any_chunks(chunk: int | None) -> None:
    embedded = torch.arange(2 * 13 * 3.0).view(2, 13, 3)
    index = window_indices((3, 4), 2)
    parts = list(window_tokens(embedded, index, chunk))
    assert chunk is None or max(map(len, parts)) <= chunk
    got = torch.cat(parts).unflatten(0, (2, 6))
    for image in range(2):
        for window, patches in enumerate(loop_windows((3, 4), 2)):
            assert torch.equal(got[image, window], embedded[image, [0, *(patch + 1 for patch in patches)]])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window of 4 x 4 patches does not fit into a grid of 3 x 5"):
        window_indices((3, 5), 4)
    with pytest.raises(ValueError, match=r"chunk must be at least 1 window, got 0"):
        next(window_tokens(torch.zeros(1, 5, 2), window_indices((2, 2), 1), 0))
