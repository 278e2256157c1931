"""Labelled images: thresholds by recall, F1, Youden's index, precision at a prevalence, or cost.

Candidates are the distinct scores; an image alarms at ``score >= threshold``. Only ``recall`` (and ``far``, see
:mod:`~zsad.decision.conformal`) comes with a promise; the others are the best on the images at hand, hence the
held-out estimate.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.decision.conformal import TooFewImagesError, finite

NAMES = ("far", "any", "recall", "f1", "youden", "precision", "cost")
"""All rules; ``far`` and ``any`` need normal images only."""

_FOLDS = 5
_REPEATS = 20


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen.

    Args:
        name: One of :data:`NAMES`.
        value: Of ``far`` and ``any`` the share of false alarms, of ``recall`` and ``precision`` the share that is
            asked for.
        costs: Of a false alarm and of a miss, for ``cost``.
    """

    name: str
    value: float | None = None
    costs: tuple[float, float] | None = None

    @classmethod
    def read(cls, text: str) -> "Rule":
        """Return the rule that a text such as ``far=0.05``, ``recall=0.95``, ``f1`` or ``cost=1:20`` means.

        Raises:
            ValueError: It is none of them.
        """
        name, equals, value = text.partition("=")
        try:
            if name == "cost":
                alarm, miss = (float(part) for part in value.split(":"))
                if min(alarm, miss) > 0 and math.isfinite(alarm) and math.isfinite(miss):
                    return cls(name, None, (alarm, miss))
            elif name in ("f1", "youden") and not equals:
                return cls(name)
            elif name in ("far", "any") and not equals:
                return cls(name, 0.05)
            elif name in ("far", "any", "recall", "precision") and 0 < float(value) < 1:
                return cls(name, float(value))
        except ValueError:
            pass
        raise ValueError(
            f"A rule is far=SHARE, any=SHARE, recall=SHARE, precision=SHARE, f1, youden or cost=ALARM:MISS, "
            f"got '{text}'."
        )

    def __str__(self) -> str:
        if self.costs:
            return f"{self.name}={self.costs[0]:g}:{self.costs[1]:g}"
        return self.name if self.value is None else f"{self.name}={self.value:g}"


class Figures(NamedTuple):
    """What a threshold does to labelled images."""

    far: float
    """Share of the normal images that alarm."""
    recall: float
    """Share of the anomalous images that alarm."""
    precision: float
    """Share of the alarms that are anomalous; NaN without an alarm."""
    f1: float


def figures(threshold: float, normal: ArrayLike, anomalous: ArrayLike, prevalence: float | None = None) -> Figures:
    """Return what alarms at ``score >= threshold``; precision and F1 at ``prevalence`` where it is given."""
    far, recall = np.mean(np.asarray(normal) >= threshold), np.mean(np.asarray(anomalous) >= threshold)
    return _figures(float(far), float(recall), np.size(normal), np.size(anomalous), prevalence)


def precision_at(recall: float, far: float, prevalence: float) -> float:
    """Return the share of true ones among the alarms where a share ``prevalence`` of the images is anomalous."""
    alarms = prevalence * recall + (1 - prevalence) * far
    return prevalence * recall / alarms if alarms else math.nan


def choose(rule: Rule, normal: ArrayLike, anomalous: ArrayLike, prevalence: float | None = None) -> float:
    """Return the threshold of a rule with labelled images; alarm at ``score >= threshold``.

    Args:
        rule: Any but ``far`` and ``any``.
        normal: (n0,) scores; they may be few only for ``recall``, which does not look at them.
        anomalous: (n1,) scores.
        prevalence: Share of anomalous images in production, for ``precision`` and ``cost``; that of these images if
            None.

    Raises:
        ValueError: One side has no images, or no threshold reaches the precision.
        TooFewImagesError: The recall cannot be promised with so few anomalous images.
    """
    good, bad = np.sort(finite(normal, "normal scores").ravel()), np.sort(finite(anomalous, "anomalous scores").ravel())
    if not len(bad) or (not len(good) and rule.name != "recall"):
        raise ValueError(
            f"The rule {rule} needs normal and anomalous images, got {len(good)} and {len(bad)}: "
            f"with normal images alone take far=0.05."
        )
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError(f"prevalence must be between 0 and 1, got {prevalence:g}.")
    if rule.name == "recall":
        return _by_recall(bad, rule.value or 0.0)
    candidates = np.unique(np.concatenate([good, bad]))[::-1]  # the highest first: of equal ones it wins
    far = (len(good) - np.searchsorted(good, candidates, side="left")) / len(good)
    recall = (len(bad) - np.searchsorted(bad, candidates, side="left")) / len(bad)
    share = prevalence if prevalence is not None else len(bad) / (len(good) + len(bad))
    if rule.name == "f1":
        hits, alarms = recall * len(bad), far * len(good)
        return float(candidates[_first_best(2 * hits / (2 * hits + alarms + len(bad) - hits))])
    if rule.name == "youden":
        return float(candidates[_first_best(recall - far)])
    if rule.name == "cost":
        alarm, miss = rule.costs or (1.0, 1.0)
        return float(candidates[_first_best(-(alarm * (1 - share) * far + miss * share * (1 - recall)))])
    if rule.name == "precision":
        reached = np.flatnonzero(share * recall >= (rule.value or 0.0) * (share * recall + (1 - share) * far) - 1e-12)
        reached = reached[recall[reached] > 0]
        if not len(reached):
            raise ValueError(f"No threshold has a precision of {rule.value:g} on these images at a share {share:g}.")
        return float(candidates[reached[-1]])
    raise ValueError(f"The rule {rule} takes normal images only.")


def held_out(
    rule: Rule, normal: ArrayLike, anomalous: ArrayLike, prevalence: float | None = None, seed: int = 0
) -> Figures | None:
    """Return what a rule does to images that it did not see: the mean of 20 repetitions of 5 stratified folds.

    None where a side has fewer than five images, or where four fifths of them are too few for the rule.
    """
    good, bad = np.asarray(normal, dtype=np.float32), np.asarray(anomalous, dtype=np.float32)
    if min(len(good), len(bad)) < _FOLDS:
        return None
    rng, found = np.random.default_rng(seed), []
    for _ in range(_REPEATS):
        alarms = [0, 0]
        try:
            for (train0, test0), (train1, test1) in zip(_folds(len(good), rng), _folds(len(bad), rng), strict=True):
                threshold = choose(rule, good[train0], bad[train1], prevalence)
                alarms[0] += int((good[test0] >= threshold).sum())
                alarms[1] += int((bad[test1] >= threshold).sum())
        except ValueError:
            return None
        found.append(_figures(alarms[0] / len(good), alarms[1] / len(bad), len(good), len(bad), prevalence))
    return Figures(*(float(np.mean([one[i] for one in found if one[i] == one[i]] or [math.nan])) for i in range(4)))


def _by_recall(bad: NDArray[np.float32], recall: float) -> float:
    k = math.floor((1 - recall) * (len(bad) + 1) + 1e-9)
    if k == 0:
        needed = math.ceil(1 / (1 - recall) - 1e-9) - 1
        raise TooFewImagesError(
            f"recall={recall:g} needs at least {needed} anomalous images, there are {len(bad)}: "
            f"add {needed - len(bad)}, or take recall={len(bad) / (len(bad) + 1):.2g} or less."
        )
    return float(bad[k - 1])


def _figures(far: float, recall: float, good: int, bad: int, prevalence: float | None) -> Figures:
    share = prevalence if prevalence is not None else bad / (good + bad)
    precision = precision_at(recall, far, share)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return Figures(far, recall, precision, f1)


def _first_best(values: NDArray[np.float64]) -> int:
    return int(np.argmax(values > values.max() - 1e-12))


def _folds(n: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    order = rng.permutation(n)
    parts = np.array_split(order, _FOLDS)
    for number, test in enumerate(parts):
        yield np.concatenate(parts[:number] + parts[number + 1 :]), test
