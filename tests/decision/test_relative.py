"""Places within a folder, against SciPy."""

import numpy as np
import pytest
from scipy.stats import median_abs_deviation, rankdata

from zsad.decision.relative import relative


def test_rank_and_robust_z() -> None:
    scores = np.round(np.random.default_rng(0).normal(size=200), 1).astype(np.float32)
    found = relative(scores)
    assert (found.rank == rankdata(-scores, method="min")).all()
    spread = median_abs_deviation(scores.astype(np.float64)) * 1.4826
    assert found.robust_z == pytest.approx((scores - np.median(scores.astype(np.float64))) / spread)


def test_no_spread_and_no_scores() -> None:
    assert relative([1.0, 1.0]).robust_z.tolist() == [0.0, 0.0]
    found = relative([1.0, 1.0, 1.0, 2.0])
    assert found.robust_z[:3].tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(found.robust_z[3])
    assert relative([]).rank.tolist() == []


def test_scores_must_be_finite() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        relative([1.0, float("nan")])
