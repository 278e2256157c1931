"""Area under the receiver operating characteristic."""

import torch
from torch import Tensor

from zsad.metrics.accumulator import ScoreMetric
from zsad.metrics.counts import Counts, from_zero, steps
from zsad.metrics.exact import exact_value


def auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the probability that a random anomaly scores above a random normal; ties count one half.

    Args:
        scores: Any finite numbers, any shape; only their order matters, no sigmoid is applied.
        labels: Same shape; anomalous where ``> 0.5``.

    Returns:
        Float64 scalar in [0, 1]; NaN with an :class:`UndefinedMetricWarning` if all labels are equal.

    Raises:
        ValueError: If shapes differ or a score is not finite.

    Example:
        >>> auroc(torch.tensor([3.0, 1.0, 2.0, 2.0]), torch.tensor([1, 0, 1, 0])).item()
        0.875
    """
    return exact_value("auroc", auroc_of, scores, labels)


def auroc_of(counts: Counts) -> Tensor:
    """Return the area under the ROC curve through the rows of the counts."""
    if counts.one_sided:
        return counts.true_positive.new_full((), torch.nan)
    area = torch.trapezoid(from_zero(counts.true_positive), from_zero(counts.false_positive))
    return area / (counts.positives * counts.negatives)


def auroc_bound(counts: Counts) -> float:
    """Return how far binning may have moved the value: half of all pairs that share a row are undecided."""
    if counts.one_sided:
        return 0.0
    pairs = steps(counts.true_positive) * steps(counts.false_positive) * (counts.highest > counts.lowest)
    return float(pairs.sum()) / 2 / (counts.positives * counts.negatives)


class AUROC(ScoreMetric):
    """Area under the ROC curve of scores from any number of batches and processes.

    Args and use are those of :class:`~zsad.metrics.accumulator.ScoreMetric`.
    """

    formula = staticmethod(auroc_of)
    bound_formula = staticmethod(auroc_bound)
