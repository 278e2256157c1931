"""Are the images still those of the calibration? Exact counts that tell a changed picture from more defects than usual.

Given a calibration of n normal images, the number among m further ones that score at most its k-th smallest follows the
beta-binomial law BetaBinomial(m, k, n + 1 - k), whatever the scores' distribution: the randomness of the calibration
is part of it. Two such counts in the body of the scores, at a tenth and at the half, hardly move when a few parts are
bad; the number of alarms does.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.decision.conformal import Calibration, alarms_allowed, finite
from zsad.decision.entry import ClassEntry

LEVEL = 0.001
"""Chance of a false warning of each kind per class, over all windows together."""

FIRST, LATER, FIRST_WINDOWS = 50, 200, 4
"""Images per window: the first four windows have 50, those after them 200."""

Kind = Literal["changed", "defects"]


@dataclass(frozen=True)
class Window:
    """What one window of consecutive images says."""

    number: int
    """From 1, per class."""
    first: int
    """Number of its first image, from 1."""
    last: int
    body: float
    """p-value of the body of the scores."""
    tail: float
    """p-value of the number of alarms."""
    median: float
    alarms: int

    @property
    def level(self) -> float:
        """p-value at which this window warns: :data:`LEVEL` / (w (w + 1)), which sums to the level over all windows."""
        return LEVEL / (self.number * (self.number + 1))

    @property
    def kind(self) -> Kind | None:
        """``"changed"`` if the body of the scores has moved, ``"defects"`` if only alarms are too many, else None."""
        if self.body <= self.level:
            return "changed"
        return "defects" if self.tail <= self.level else None


@dataclass
class Watch:
    """Look at the scores of one class, window by window.

    Args:
        calibration: Of the class.
        k: Greatest rank that raises an alarm.
    """

    calibration: Calibration
    k: int
    windows: list[Window] = field(default_factory=list)
    _waiting: list[float] = field(default_factory=list)
    _seen: int = 0
    _quiet_until: int = 0

    def add(self, scores: Iterable[float]) -> list[Window]:
        """Take scores in the order of production; return windows to warn about: the first, then at each doubling."""
        warnings = []
        for score in scores:
            self._waiting.append(score)
            self._seen += 1
            if len(self._waiting) < (FIRST if len(self.windows) < FIRST_WINDOWS else LATER):
                continue
            window = self._close()
            if window.kind is not None and self._seen >= self._quiet_until:
                self._quiet_until = 2 * self._seen
                warnings.append(window)
        return warnings

    def message(self, window: Window, class_name: str, command: str) -> str:
        """Return what to tell about a window: both medians, where it lies, and the command that calibrates again."""
        where = f"images {window.first} to {window.last} of '{class_name}'"
        usual = f"median score {window.median:.4g}, {self.median:.4g} in the calibration"
        if window.kind == "changed":
            return (
                f"Your images have changed: {where} do not look like those of the calibration ({usual}; "
                f"p = {window.body:.1g}). The promised share of false alarms no longer holds. If they are good, "
                f"calibrate again: {command}"
            )
        size = window.last - window.first + 1
        return (
            f"More defects than usual: {window.alarms} of {size} alarm in {where} ({usual}; p = {window.tail:.1g}), "
            f"the body of the scores is as before. If these images are good, calibrate again: {command}"
        )

    @property
    def median(self) -> float:
        """Median of the calibration."""
        return float(np.median(self.calibration.scores))

    def _close(self) -> Window:
        values, self._waiting = np.asarray(self._waiting, dtype=np.float32), []
        body, tail = window_p_values(self.calibration, values, self.k)
        window = Window(
            len(self.windows) + 1, self._seen - len(values) + 1, self._seen, body, tail, float(np.median(values)),
            int((self.calibration.ranks(values) <= self.k).sum()),
        )  # fmt: skip
        self.windows.append(window)
        return window


def watch_of(entry: ClassEntry) -> Watch:
    """Return the watch of a class; by rules without a rank it counts the alarms at 5 %."""
    return Watch(entry.calibration, entry.k or max(1, alarms_allowed(0.05, entry.calibration.n)))


def window_p_values(calibration: Calibration, scores: ArrayLike, k: int) -> tuple[float, float]:
    """Return the p-values of the body of the scores (two-sided, of two counts) and of the number of alarms.

    Args:
        calibration: Of the class.
        scores: (m,) of consecutive images.
        k: Greatest rank that raises an alarm.
    """
    values, n = finite(scores, "scores"), calibration.n
    places = {max(1, min(n, _half_up(share * (n + 1)))) for share in (0.1, 0.5)}
    sides = []
    for place in sorted(places):
        at = _smallest(calibration, place)
        law = _law(len(values), place, n)
        # equal scores: each side takes the count that ties cannot make significant
        few, many = int((values <= at).sum()), int((values < at).sum())
        sides.append(min(1.0, 2 * float(min(law[: few + 1].sum(), law[many:].sum()))))
    alarms = int((calibration.ranks(values) <= k).sum())
    return min(1.0, len(sides) * min(sides)), float(min(1.0, _law(len(values), k, n)[alarms:].sum()))


def _smallest(calibration: Calibration, place: int) -> np.float32:
    """The score at a place from below, from 1."""
    kept: NDArray[np.float32] = calibration.scores
    return kept[round((place - 1) * (len(kept) - 1) / max(calibration.n - 1, 1))]


def _law(m: int, k: int, n: int) -> NDArray[np.float64]:
    """Chance of each count 0..m of BetaBinomial(m, k, n + 1 - k), without SciPy, which a server need not have."""

    def log_choose(top: int, below: int) -> float:
        return math.lgamma(top + 1) - math.lgamma(below + 1) - math.lgamma(top - below + 1)

    # whole numbers: the chance is C(x + k - 1, x) C(m - x + n - k, m - x) / C(m + n, m)
    ways = [log_choose(x + k - 1, x) + log_choose(m - x + n - k, m - x) for x in range(m + 1)]
    return np.exp(np.array(ways) - log_choose(m + n, m))


def _half_up(value: float) -> int:
    return math.floor(value + 0.5)
