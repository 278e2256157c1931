"""The best F1 over all thresholds."""

import torch
from torch import Tensor

from zsad.metrics.accumulator import ScoreMetric
from zsad.metrics.counts import Counts, steps
from zsad.metrics.exact import exact_value


def f1_max(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the greatest F1 that a threshold can give, positive meaning ``score >= threshold``.

    Args, value and errors are those of :func:`~zsad.metrics.auroc.auroc`.

    Example:
        >>> f1_max(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1, 0, 1])).item()
        0.8
    """
    return exact_value("f1_max", f1_max_of, scores, labels)


def f1_of(counts: Counts) -> Tensor:
    """Return F1 at each row, (n,): ``2 TP / (TP + FP + P)``."""
    return 2 * counts.true_positive / (counts.true_positive + counts.false_positive + counts.positives)


def f1_max_of(counts: Counts) -> Tensor:
    """Return the greatest F1 over the rows."""
    if counts.one_sided:
        return counts.true_positive.new_full((), torch.nan)
    return f1_of(counts).max()


def f1_max_bound(counts: Counts) -> float:
    """Return how far binning may have moved the value: a threshold inside a row can at best leave out its negatives."""
    if counts.one_sided:
        return 0.0
    removable = steps(counts.false_positive) * (counts.highest > counts.lowest)
    best = f1_of(counts._replace(false_positive=counts.false_positive - removable)).max()
    return float(best - f1_of(counts).max())


class F1Max(ScoreMetric):
    """Greatest F1 over all thresholds, of scores from any number of batches and processes.

    Args and use are those of :class:`~zsad.metrics.accumulator.ScoreMetric`.
    """

    formula = staticmethod(f1_max_of)
    bound_formula = staticmethod(f1_max_bound)
