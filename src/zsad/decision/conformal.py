"""Normal images only: conformal p-values, and the threshold that keeps the promised share of false alarms.

With scores ``c_1..c_n`` of normal images, a new one gets the rank ``r = #{c_i >= s} + 1`` and ``p = r / (n + 1)``. If
it is exchangeable with them, ``P(p <= alpha) <= floor(alpha (n + 1)) / (n + 1) <= alpha``, whatever the distribution.

References:
    Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005. Bates, Candès, Lei, Romano, Sesia, "Testing
    for outliers with conformal p-values", Annals of Statistics 2023 (arXiv 2104.08279). Vovk, "Conditional validity of
    inductive conformal predictors", 2012. Wilks, "Determination of sample sizes for setting tolerance limits", 1941.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

KEPT = 10_000
"""Most scores that a calibration keeps."""

_EPS = 1e-9  # 0.29 * 100 is 28.999999999999996


class TooFewImagesError(ValueError):
    """A rule needs more images than there are; the message says how many."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of normal images, and what they say of a new one.

    Args:
        scores: Ascending float32: all of them up to :data:`KEPT`, else that many order statistics evenly spaced in
            rank.
        n: Number of images that they stand for.
    """

    scores: NDArray[np.float32]
    n: int

    @classmethod
    def of(cls, scores: ArrayLike) -> "Calibration":
        """Return a calibration with these scores, in any order, at least one.

        Raises:
            ValueError: A score is not finite, or there is none.
        """
        values = np.sort(finite(scores, "calibration scores").ravel())
        if not len(values):
            raise ValueError("A calibration needs the score of at least one normal image, got none.")
        n = len(values)
        return cls(values if n <= KEPT else values[_positions(n, KEPT)], n)

    @cached_property
    def above(self) -> NDArray[np.int64]:
        """Rank of a score by the number of kept scores below it, (kept + 1,): n + 1 first, 1 last.

        Between two kept scores the larger of the possible ranks is meant, so that p is never too small.
        """
        return np.concatenate([[self.n + 1], self.n - _positions(self.n, len(self.scores))])

    def ranks(self, scores: ArrayLike) -> NDArray[np.int64]:
        """Return ``#{c_i >= s} + 1`` of each score, of the same shape; ties count against an alarm."""
        return self.above[np.searchsorted(self.scores, finite(scores, "scores"), side="left")]

    def p_values(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the share of normal images, the new one among them, that score at least as high; in (0, 1]."""
        return self.ranks(scores) / (self.n + 1)

    def threshold(self, k: int) -> float:
        """Return the smallest float32 whose rank is at most ``k``: alarm at ``score >= threshold``."""
        if not 1 <= k <= self.n:
            raise ValueError(f"k must be between 1 and the number of images, {self.n}, got {k}.")
        largest = self.scores[int(np.searchsorted(_positions(self.n, len(self.scores)), self.n - k))]
        return float(np.nextafter(largest, np.float32(np.inf)))


def finite(scores: ArrayLike, what: str) -> NDArray[np.float32]:
    """Return scores as float32.

    Raises:
        ValueError: One of them is not finite.
    """
    with np.errstate(over="ignore"):
        values = np.asarray(scores, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"The {what} must be finite, {int((~np.isfinite(values)).sum())} of {values.size} are not.")
    return values


def alarms_allowed(alpha: float, n: int) -> int:
    """Return ``k = floor(alpha (n + 1))``: the greatest rank that raises an alarm; 0 means that none can."""
    return math.floor(_share(alpha, "alpha") * (n + 1) + _EPS)


def images_needed(alpha: float) -> int:
    """Return the smallest number of normal images with which an alarm is possible at ``alpha``."""
    return math.ceil(1 / _share(alpha, "alpha") - _EPS) - 1


def smallest_alpha(n: int) -> float:
    """Return ``1 / (n + 1)``, the smallest share of false alarms that can be promised with so many normal images."""
    return 1 / (n + 1)


def k_for(alpha: float, n: int, what: str = "the folder") -> int:
    """Return the greatest rank that raises an alarm.

    Args:
        alpha: Share of false alarms among normal images, on average over calibrations.
        n: Number of normal images.
        what: Where they come from, for the message.

    Raises:
        TooFewImagesError: No alarm is possible with so few.
    """
    k = alarms_allowed(alpha, n)
    if k == 0:
        needed = images_needed(alpha)
        raise TooFewImagesError(
            f"alpha={alpha:g} needs at least {needed} normal images, {what} has {n}: add {needed - n}, or take "
            f"alpha={_rounded_up(smallest_alpha(n)):g} (the smallest for {n} images: 1/{n + 1})."
        )
    return k


def sure_images_needed(alpha: float, sure: float) -> int:
    """Return how many normal images the tolerance rule needs: ``ln(1 - sure) / ln(1 - alpha)``, rounded up."""
    return math.ceil(math.log(1 - _share(sure, "sure")) / math.log(1 - _share(alpha, "alpha")) - _EPS)


def sure_k(alpha: float, sure: float, n: int, what: str = "the folder") -> int:
    """Return the greatest rank that alarms so that, ``sure`` as one asks, the rate is at most ``alpha``.

    Args:
        alpha: Share of false alarms among normal images.
        sure: Confidence, e.g. 0.95.
        n: Number of normal images.
        what: Where they come from, for the message.

    Raises:
        TooFewImagesError: Not even the largest score is a threshold that is sure enough.
    """
    from scipy.stats import beta

    needed = sure_images_needed(alpha, sure)
    if n < needed:
        raise TooFewImagesError(
            f"alpha={alpha:g} with sure={sure:g} needs at least {needed} normal images, {what} has {n}: "
            f"add {needed - n}, or take alpha={_rounded_up(1 - (1 - sure) ** (1 / n)):g}."
        )
    ranks = np.arange(1, n + 1)
    return int(ranks[beta.sf(alpha, ranks, n + 1 - ranks) <= 1 - sure + 1e-12][-1])


def rate_upper(rank: ArrayLike, n: int, sure: float = 0.95) -> NDArray[np.float64]:
    """Return the bound of the rate at which normal images have at most this rank, in a share ``sure`` of calibrations.

    For the rank of a score this is the Clopper-Pearson bound of the rate at which normal images score as high.

    Args:
        rank: Any shape, from 1 to n + 1; n + 1 gives 1.
        n: Number of normal images.
        sure: Confidence.
    """
    from scipy.stats import beta

    ranks = np.asarray(rank)
    inside = np.minimum(ranks, n)
    return np.asarray(np.where(ranks > n, 1.0, beta.ppf(sure, inside, n + 1 - inside)))


def rate_range(k: int, n: int, low: float, high: float) -> tuple[float, float]:
    """Return two quantiles of Beta(k, n + 1 - k), the law of the false-alarm rate over calibrations."""
    from scipy.stats import beta

    return float(beta.ppf(low, k, n + 1 - k)), float(beta.ppf(high, k, n + 1 - k))


def false_discoveries(p_values: ArrayLike, q: float) -> NDArray[np.bool_]:
    """Return which images alarm so that at most a share ``q`` of the alarms is false, on average (Benjamini-Hochberg).

    Args:
        p_values: (m,) of all images that are judged together, from one calibration.
        q: Share of false ones among the alarms.
    """
    p = np.asarray(p_values, dtype=np.float64)
    _share(q, "q")
    order = np.argsort(p, kind="stable")
    passed = np.flatnonzero(p[order] <= q * np.arange(1, len(p) + 1) / max(len(p), 1) + 1e-12)
    found = np.zeros(len(p), dtype=np.bool_)
    if len(passed):
        found[order[: passed[-1] + 1]] = True
    return found


def discoveries_needed(n: int, m: int, q: float) -> int:
    """Return how many of ``m`` images must have the smallest p-value, 1 / (n + 1), for any to alarm at ``q``."""
    return max(1, math.ceil(m / (_share(q, "q") * (n + 1)) - _EPS))


def share_of_defects(p_values: ArrayLike) -> float:
    """Return an estimate of the share of defects in a folder: ``1 - #{p > .5} / (.5 m)``, at least 0.

    References:
        Storey, "A direct approach to false discovery rates", 2002; valid if only defects differ from the calibration.
    """
    p = np.asarray(p_values, dtype=np.float64)
    return float(max(0.0, 1 - (p > 0.5).mean() / 0.5)) if p.size else 0.0


def _positions(n: int, kept: int) -> NDArray[np.int64]:
    """Places of the kept scores among all in ascending order."""
    return np.arange(n) if kept == n else np.rint(np.linspace(0, n - 1, kept)).astype(np.int64)


def _share(value: Any, name: str) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value:g}.")
    return float(value)


def _rounded_up(value: float) -> float:
    """The value with one digit that is not zero, rounded up."""
    digit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / digit - _EPS) * digit
