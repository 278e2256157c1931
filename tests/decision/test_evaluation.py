"""Held-out rates and bands against SciPy and simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest

from zsad.decision.conformal import Calibration
from zsad.decision.evaluation import held_out_rate, promise, reliability, split_rates


def test_splits_give_the_promised_mean() -> None:
    scores = np.random.default_rng(0).normal(size=400)
    found = split_rates(scores, 0.05, 100)
    assert found is not None
    assert (found.n, found.m) == (100, 300)
    assert found.promised == pytest.approx(5 / 101)
    assert found.mean == pytest.approx(found.promised, abs=0.006)
    assert found.low <= found.mean <= found.high
    assert found.low == pytest.approx(found.promised_low, abs=0.02)
    assert found.high == pytest.approx(found.promised_high, abs=0.03)
    assert split_rates(scores, 0.05, 10) is None
    assert split_rates(scores, 0.05, 400) is None


def test_splits_keep_groups_together() -> None:
    groups = [str(part) for part in range(60) for _ in range(5)]
    scores = np.repeat(np.random.default_rng(0).normal(size=60), 5)
    found = split_rates(scores, 0.05, 40, groups)
    assert found is not None
    assert found.m == 20


def test_held_out() -> None:
    calibration = Calibration.of(np.arange(100.0))
    scores = np.concatenate([np.full(95, 3.0), np.full(5, 200.0)])
    found = held_out_rate(calibration, 5, scores)
    interval = binomtest(5, 100).proportion_ci(0.95, "exact")
    assert found.low == pytest.approx(interval.low)
    assert found.high == pytest.approx(interval.high)
    assert found.rate == 0.05
    assert found.expected
    assert not held_out_rate(calibration, 5, np.full(100, 200.0)).expected


def test_reliability_stays_in_its_band() -> None:
    rng = np.random.default_rng(0)
    outside = []
    for _ in range(200):
        curve = reliability(Calibration.of(rng.normal(size=60)), rng.normal(size=80))
        outside.append((curve.share < curve.low) | (curve.share > curve.high))
    assert np.mean(outside, axis=0).max() < 0.05 + 4 * (0.05 / 200) ** 0.5
    shifted = reliability(Calibration.of(rng.normal(size=60)), rng.normal(size=80) + 2)
    assert (shifted.share > shifted.high).mean() > 0.5


def test_the_promise_in_words() -> None:
    assert promise(1, 20) == (
        "4.76 % false alarms on average; with these 20 images it may be as much as 14 % (95 % sure)"
    )
