"""Average precision: the step-wise area under the precision-recall curve."""

import torch
from torch import Tensor

from zsad.metrics.accumulator import ScoreMetric
from zsad.metrics.counts import Counts, steps
from zsad.metrics.exact import exact_value


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean precision over the anomalies: the sum of recall steps times precision, not interpolated.

    Args, value and errors are those of :func:`~zsad.metrics.auroc.auroc`.

    Example:
        >>> average_precision(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1, 0, 1])).item()
        0.8333333333333333
    """
    return exact_value("average_precision", average_precision_of, scores, labels)


def average_precision_of(counts: Counts) -> Tensor:
    """Return the sum of recall steps times the precision at the end of each row."""
    if counts.one_sided:
        return counts.true_positive.new_full((), torch.nan)
    precision = counts.true_positive / (counts.true_positive + counts.false_positive)
    return (steps(counts.true_positive) * precision).sum() / counts.positives


def average_precision_bound(counts: Counts) -> float:
    """Return how far binning may have moved the value.

    In the worst order all negatives of a row come before its positives, in the best order after them.
    """
    if counts.one_sided:
        return 0.0
    tp, fp, share = counts.true_positive, counts.false_positive, steps(counts.true_positive) / counts.positives
    mixed = (counts.highest > counts.lowest) & (share > 0)
    tp, fp, share = tp[mixed], fp[mixed], share[mixed]
    value = tp / (tp + fp)
    first = tp - share * counts.positives + 1
    worst, best = first / (first + fp), tp / (tp + fp - steps(counts.false_positive)[mixed])
    return max(float((share * (value - worst)).sum()), float((share * (best - value)).sum()))


class AveragePrecision(ScoreMetric):
    """Average precision of scores from any number of batches and processes.

    Args and use are those of :class:`~zsad.metrics.accumulator.ScoreMetric`.
    """

    formula = staticmethod(average_precision_of)
    bound_formula = staticmethod(average_precision_bound)
