"""The maps from scores to bins never fall and are fine where scores crowd."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsad.metrics.bins import ScoreBins

RANGES = [None, (0.0, 1.0), (-20.0, 20.0), (0.1, 0.7), (-3.0, -1.0), (1e-8, 3e-8), (-1e6, 1.0)]


@pytest.mark.parametrize("score_range", RANGES)
@pytest.mark.parametrize("bits", [8, 16, 20])
def test_bin_numbers_never_fall_and_stay_in_bounds(score_range: tuple[float, float] | None, bits: int) -> None:
    low, high = score_range or (-50.0, 50.0)
    even = np.linspace(low, high, 20_001)
    near_ends = (high - low) * np.logspace(-12, -0.3, 5000)
    scores = np.sort(np.concatenate([even, low + near_ends, high - near_ends, [low, high]]).astype(np.float32))
    number = ScoreBins(score_range, bits)(torch.from_numpy(scores))
    assert bool((number.diff() >= 0).all())
    assert 0 <= int(number.min()) <= int(number.max()) < 2**bits


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=50),
    st.sampled_from(RANGES),
    st.integers(8, 24),
)
@settings(max_examples=100, deadline=None)
def test_any_scores_keep_their_order(scores: list[float], score_range: tuple[float, float] | None, bits: int) -> None:
    ordered = torch.tensor(sorted(scores), dtype=torch.float32)
    number = ScoreBins(score_range, bits)(ordered)
    assert bool((number.diff() >= 0).all())
    assert 0 <= int(number.min()) <= int(number.max()) < 2**bits


@pytest.mark.parametrize(
    ("score_range", "scores"),
    [
        ((0.0, 1.0), torch.linspace(0, 1, 4000)),
        ((0.0, 1.0), torch.logspace(-20, -1, 4000)),  # saturated low
        ((0.0, 4.0), 4 - torch.logspace(-5, -1, 100)),  # saturated high
        (None, torch.logspace(-20, 20, 4000)),
        (None, -torch.logspace(-20, 20, 4000)),
    ],
)
def test_crowded_scores_get_bins_of_their_own(score_range: tuple[float, float] | None, scores: torch.Tensor) -> None:
    distinct = scores.float().unique()
    assert len(ScoreBins(score_range)(distinct).unique()) > 0.97 * len(distinct)


def test_scores_outside_the_range_are_counted() -> None:
    bins = ScoreBins((0.0, 1.0))
    scores = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1, 7.0])
    assert int(bins.outside(scores)) == 3
    assert int(ScoreBins().outside(scores)) == 0
    assert bins(scores)[[0, 4, 5]].tolist() == bins(torch.tensor([0.0, 1.0, 1.0])).tolist()


@pytest.mark.parametrize("score_range", [(1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_ranges_that_are_none_are_refused(score_range: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two finite numbers, the lower first"):
        ScoreBins(score_range)
