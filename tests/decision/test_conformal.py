"""Ranks, p-values and thresholds against enumeration, SciPy and simulation."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, betabinom, false_discovery_control

from zsad.decision.conformal import (
    KEPT,
    Calibration,
    TooFewImagesError,
    alarms_allowed,
    discoveries_needed,
    false_discoveries,
    images_needed,
    k_for,
    rate_range,
    rate_upper,
    share_of_defects,
    smallest_alpha,
    sure_images_needed,
    sure_k,
)


def test_exact_at_four_images_whatever_the_order() -> None:
    ranks = [int(Calibration.of(order[:4]).ranks(order[4])) for order in itertools.permutations([1, 2, 3, 4, 5.5])]
    for j in range(1, 6):
        assert sum(rank <= j for rank in ranks) * 5 == j * len(ranks)  # P(p <= j/5) = j/5


@pytest.mark.parametrize("values", [[1, 1, 2, 3, 4], [1, 1, 2, 2, 2], [3, 3, 3, 3, 3], [1, 2, 2, 5, 5]])
def test_ties_only_make_alarms_rarer(values: list[float]) -> None:
    ranks = [int(Calibration.of(order[:4]).ranks(order[4])) for order in itertools.permutations(values)]
    for j in range(1, 6):
        assert sum(rank <= j for rank in ranks) * 5 <= j * len(ranks)


def false_alarms(n: int, alpha: float, levels: int | None, rule: str, repetitions: int = 20_000) -> tuple[float, float]:
    """Share of alarms of one normal image after each of many calibrations, and its standard error."""
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(repetitions, n + 1))
    if levels:
        scores = np.round(scores * levels / 6)
    calibration, new = np.sort(scores[:, :n]), scores[:, n]
    if rule == "numpy":
        alarm = new > np.quantile(calibration, 1 - alpha, axis=1)
    elif rule == ">":
        alarm = (calibration > new[:, None]).sum(1) + 1 <= alarms_allowed(alpha, n)
    else:
        alarm = np.array(
            [
                Calibration.of(one).ranks(score) <= alarms_allowed(alpha, n)
                for one, score in zip(calibration, new, strict=True)
            ]
        )
    return float(alarm.mean()), math.sqrt(alpha * (1 - alpha) / repetitions)


@pytest.mark.parametrize(("n", "alpha"), [(9, 0.1), (19, 0.05), (20, 0.05), (100, 0.05)])
def test_simulated_rate_is_that_of_the_theory(n: int, alpha: float) -> None:
    rate, error = false_alarms(n, alpha, None, "ours")
    assert abs(rate - alarms_allowed(alpha, n) / (n + 1)) < 4 * error


def test_the_simulation_finds_the_usual_mistakes() -> None:
    n, alpha = 20, 0.05
    promised = alarms_allowed(alpha, n) / (n + 1)
    quantile, error = false_alarms(n, alpha, None, "numpy")
    assert quantile > promised + 4 * error
    tied, error = false_alarms(50, alpha, 13, ">")
    assert tied > alarms_allowed(alpha, 50) / 51 + 4 * error
    ours, error = false_alarms(50, alpha, 13, "ours", 5_000)
    assert ours < alarms_allowed(alpha, 50) / 51 + 4 * error


@pytest.mark.parametrize("n", [1, 4, 19, 57])
def test_rank_and_threshold_agree_on_all_neighbours(n: int) -> None:
    rng = np.random.default_rng(n)
    calibration = Calibration.of(np.round(rng.normal(size=n), 1))
    near: list[NDArray[np.float32]] = [calibration.scores]
    for direction in (-np.inf, np.inf):
        step = calibration.scores
        for _ in range(3):
            step = np.nextafter(step, np.float32(direction))
            near.append(step)
    scores = np.concatenate(near)
    for k in range(1, n + 1):
        by_rank = calibration.ranks(scores) <= k
        assert (by_rank == (scores >= np.float32(calibration.threshold(k)))).all()
        # the same after the way through a card's nine digits
        assert (by_rank == (scores >= np.float32(float(f"{calibration.threshold(k):.9g}")))).all()
        counted = np.array([(calibration.scores >= score).sum() + 1 <= k for score in scores])
        assert (by_rank == counted).all()


def test_whole_numbers_where_floats_fall_short() -> None:
    assert 0.29 * 100 < 29
    assert alarms_allowed(0.29, 99) == 29


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.001, 999)])
def test_one_image_short_is_an_error_with_the_bound(alpha: float, needed: int) -> None:
    assert images_needed(alpha) == needed
    assert k_for(alpha, needed) == 1
    with pytest.raises(TooFewImagesError, match=f"alpha={alpha:g} needs at least {needed} normal images.*: add 1,"):
        k_for(alpha, needed - 1)


def test_the_sentence_for_twelve_images() -> None:
    with pytest.raises(TooFewImagesError) as error:
        k_for(0.05, 12, "'good/'")
    assert str(error.value) == (
        "alpha=0.05 needs at least 19 normal images, 'good/' has 12: add 7, or take alpha=0.08 "
        "(the smallest for 12 images: 1/13)."
    )
    assert k_for(0.08, 12) == 1
    assert smallest_alpha(12) == pytest.approx(1 / 13)


@pytest.mark.parametrize(
    ("alpha", "sure", "needed"), [(0.05, 0.95, 59), (0.05, 0.9, 45), (0.1, 0.95, 29), (0.01, 0.95, 299)]
)
def test_tolerance_rule(alpha: float, sure: float, needed: int) -> None:
    assert sure_images_needed(alpha, sure) == needed
    for n in (needed, 3 * needed, 10 * needed):
        k = sure_k(alpha, sure, n)
        assert beta.sf(alpha, k, n + 1 - k) <= 1 - sure < beta.sf(alpha, k + 1, n - k)
    with pytest.raises(TooFewImagesError, match=f"needs at least {needed} normal images.* add 1"):
        sure_k(alpha, sure, needed - 1)


def test_tolerance_rule_keeps_its_promise_in_a_simulation() -> None:
    rng = np.random.default_rng(3)
    n, repetitions = 100, 4_000
    scores = rng.uniform(size=(repetitions, n)).astype(np.float32)  # the true rate is one minus the threshold
    k = sure_k(0.05, 0.95, n)
    above = np.mean([1 - Calibration.of(one).threshold(k) > 0.05 for one in scores])
    assert 0.02 < above <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / repetitions)


def test_bounds_are_those_of_scipy() -> None:
    assert rate_upper(1, 20).item() == pytest.approx(beta.ppf(0.95, 1, 20))
    assert rate_upper([21, 20], 20).tolist() == pytest.approx([1.0, beta.ppf(0.95, 20, 1)])
    assert rate_range(5, 100, 0.05, 0.95)[1] == pytest.approx(0.089, abs=5e-4)
    assert rate_range(1, 20, 0.05, 0.95)[1] == pytest.approx(0.139, abs=5e-4)


def test_benjamini_hochberg_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = np.concatenate([rng.uniform(size=30), rng.uniform(0, 0.01, size=5)]).round(3).clip(1e-4)
        assert (false_discoveries(p, 0.1) == (false_discovery_control(p) <= 0.1)).all()
    assert false_discoveries([], 0.1).tolist() == []


def test_few_images_and_false_discoveries() -> None:
    n, m, q = 100, 1_000, 0.1
    needed = discoveries_needed(n, m, q)
    assert needed == 100
    for alarms, possible in ((needed - 1, False), (needed, True)):
        p = np.full(m, 1.0)
        p[:alarms] = 1 / (n + 1)
        assert false_discoveries(p, q).any() == possible


def test_share_of_defects() -> None:
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.uniform(size=8_000), np.full(2_000, 0.001)])
    assert share_of_defects(p) == pytest.approx(0.2, abs=0.03)
    assert share_of_defects([0.9, 0.8]) == 0.0


def test_a_large_calibration_is_thinned_and_p_never_too_small() -> None:
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=3 * KEPT + 7), 4).astype(np.float32)
    calibration = Calibration.of(scores)
    assert len(calibration.scores) == KEPT
    assert calibration.n == len(scores)
    new = np.concatenate([rng.normal(size=2_000), scores[:500], [-9, 9]]).astype(np.float32)
    exact = len(scores) - np.searchsorted(np.sort(scores), new, side="left") + 1
    ranks = calibration.ranks(new)
    assert (ranks >= exact).all()
    assert (ranks - exact <= 4).all()
    for k in (1, 50, 1_500, 30_000):
        assert ((ranks <= k) == (new >= np.float32(calibration.threshold(k)))).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_scores_must_be_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="calibration scores must be finite, 1 of 2 are not"):
        Calibration.of([0.5, bad])
    with pytest.raises(ValueError, match="scores must be finite"):
        Calibration.of([0.5]).p_values(bad)


def test_no_scores() -> None:
    with pytest.raises(ValueError, match="at least one normal image"):
        Calibration.of([])


def test_rate_over_calibrations_is_beta() -> None:
    rng = np.random.default_rng(1)
    n, k = 50, 2
    rates = [1 - Calibration.of(rng.uniform(size=n)).threshold(k) for _ in range(4_000)]
    for q in (0.05, 0.5, 0.95):
        assert np.quantile(rates, q) == pytest.approx(beta.ppf(q, k, n + 1 - k), abs=0.006)
    assert betabinom.mean(200, k, n + 1 - k) / 200 == pytest.approx(k / (n + 1))
