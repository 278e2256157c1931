"""Does a calibration keep what it promises? Random splits, held-out images, and the band that chance leaves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.decision.conformal import Calibration, alarms_allowed, finite, rate_range

SPLITS = 200


@dataclass(frozen=True)
class SplitRates:
    """False alarms of random splits into calibration and test."""

    n: int
    """Images that calibrate."""
    m: int
    """Images that are judged."""
    mean: float
    low: float
    """5 % of the splits are below."""
    high: float
    """95 % of the splits are below."""
    promised: float
    """k / (n + 1)."""
    promised_low: float
    """The same two quantiles of Beta(k, n + 1 - k), with the test images' own chance (beta-binomial)."""
    promised_high: float


@dataclass(frozen=True)
class HeldOut:
    """False alarms of one folder of normal images that took no part."""

    alarms: int
    m: int
    low: float
    """Clopper-Pearson, 95 %."""
    high: float
    expected: bool
    """Whether the count lies in the central 99.9 % of the law that the calibration and these images have together."""

    @property
    def rate(self) -> float:
        """Share that alarmed."""
        return self.alarms / self.m if self.m else float("nan")


def split_rates(
    scores: ArrayLike, alpha: float, n: int, groups: Sequence[str] | None = None, splits: int = SPLITS, seed: int = 0
) -> SplitRates | None:
    """Return the false alarms of random splits of normal images; None if the parts are too small.

    Args:
        scores: (m,) of normal images.
        alpha: Share of false alarms.
        n: Images, or groups, that calibrate; the rest is judged.
        groups: Part of each image: a split keeps the photos of a part together, and one photo of each counts.
        splits: Number of splits; they share images, so that their spread is no independent one.
        seed: Of the splits.
    """
    from scipy.stats import betabinom

    values = finite(scores, "scores").ravel()
    rng = np.random.default_rng(seed)
    if groups is not None:
        names = np.asarray(groups)
        places = [rng.choice(np.flatnonzero(names == name)) for name in sorted(set(groups))]
        values = values[np.asarray(places)]
    k, m = alarms_allowed(alpha, n) if n else 0, len(values) - n
    if k == 0 or m < 1:
        return None
    rates = []
    for _ in range(splits):
        order = rng.permutation(values)
        rates.append(float((Calibration.of(order[:n]).ranks(order[n:]) <= k).mean()))
    low, high = np.quantile(rates, [0.05, 0.95])
    law = betabinom(m, k, n + 1 - k)
    return SplitRates(n, m, float(np.mean(rates)), float(low), float(high), k / (n + 1), *(law.ppf([0.05, 0.95]) / m))


def held_out_rate(
    calibration: Calibration, k: int | None, scores: ArrayLike, threshold: float = 0.0, sure: float = 0.999
) -> HeldOut:
    """Return how many of further normal images alarm, and whether that is what was promised.

    Args:
        calibration: Of the class.
        k: Greatest rank that alarms; None for a threshold that promises nothing.
        scores: (m,) of normal images that took no part.
        threshold: Score from which on an image alarms, without ``k``.
        sure: Share of the counts that are expected.
    """
    from scipy.stats import beta, betabinom

    values = finite(scores, "scores").ravel()
    m, n = len(values), calibration.n
    alarm = values >= np.float32(threshold) if k is None else calibration.ranks(values) <= k
    alarms = int(alarm.sum())
    low = 0.0 if alarms == 0 else float(beta.ppf(0.025, alarms, m - alarms + 1))
    high = 1.0 if alarms == m else float(beta.ppf(0.975, alarms + 1, m - alarms))
    if k is None:
        return HeldOut(alarms, m, low, high, True)
    law, side = betabinom(m, k, n + 1 - k), (1 - sure) / 2
    return HeldOut(alarms, m, low, high, bool(law.cdf(alarms) >= side and law.sf(alarms - 1) >= side))


@dataclass(frozen=True)
class Reliability:
    """Share of further normal images with a p-value of at most alpha, and what chance leaves around it."""

    alpha: NDArray[np.float64]
    share: NDArray[np.float64]
    low: NDArray[np.float64]
    """Pointwise central 95 % of the beta-binomial law."""
    high: NDArray[np.float64]


def reliability(calibration: Calibration, scores: ArrayLike) -> Reliability:
    """Return the curve of further normal images, (m,), against the diagonal."""
    from scipy.stats import betabinom

    p, n = calibration.p_values(scores).ravel(), calibration.n
    ranks = np.unique(np.rint(np.linspace(1, n, min(n, 200))).astype(np.int64))
    alpha, m = ranks / (n + 1), len(p)
    share = np.searchsorted(np.sort(p), alpha + 1e-12, side="right") / max(m, 1)
    low, high = np.empty(len(ranks)), np.empty(len(ranks))
    for place, rank in enumerate(ranks):  # the sum of all chances is quicker than SciPy's search for a quantile
        below = np.cumsum(betabinom.pmf(np.arange(m + 1), m, rank, n + 1 - rank))
        low[place], high[place] = np.searchsorted(below, [0.025, 0.975 - 1e-12]) / max(m, 1)
    return Reliability(alpha, share, low, high)


def promise(k: int, n: int) -> str:
    """Return what a calibration promises, in a sentence."""
    _, high = rate_range(k, n, 0.05, 0.95)
    return (
        f"{100 * k / (n + 1):.3g} % false alarms on average; with these {n} images it may be as much as "
        f"{100 * high:.2g} % (95 % sure)"
    )


REASONS = (
    "Likely reasons: the images differ from those of the calibration (light, lens, camera, product); several photos "
    "show one part (--group-by); defects lie among the images that were called good; or the card is of another class."
)
"""What to look for where a rate lies outside its band."""
