"""What every metric here is a function of: how many positives and negatives lie at or above each threshold."""

from typing import NamedTuple

import torch
from torch import Tensor


class Counts(NamedTuple):
    """Cumulative counts at falling thresholds; one row per distinct score, or per occupied bin of scores.

    Every row is an exact point of the true curves. If the scores were binned, only the order inside a row is unknown.
    """

    lowest: Tensor
    """(n,) lowest score of each row, falling: the row counts what has ``score >= lowest``."""
    highest: Tensor
    """(n,) highest score of each row; equal to ``lowest`` where the row holds one distinct score."""
    true_positive: Tensor
    """(n,) float64, positives at or above the row."""
    false_positive: Tensor
    """(n,) float64, negatives at or above the row."""
    overlap: Tensor | None = None
    """(n,) float64, sum over the regions of their share at or above the row; None without regions."""
    regions: float = 0.0
    """Number of regions."""
    overlap_error: float = 0.0
    """How far the mean overlap may be off because the region weights were held as integers."""

    @property
    def positives(self) -> float:
        """Number of all positives."""
        return float(self.true_positive[-1]) if len(self.true_positive) else 0.0

    @property
    def negatives(self) -> float:
        """Number of all negatives."""
        return float(self.false_positive[-1]) if len(self.false_positive) else 0.0

    @property
    def one_sided(self) -> bool:
        """Whether positives or negatives are missing: metrics of scores are undefined then."""
        return not self.positives or not self.negatives


def count_scores(positive: Tensor, negative: Tensor, area: Tensor | None = None, regions: int = 0) -> Counts:
    """Return exact counts: one row per distinct score, from one sort.

    Args:
        positive: Scores of the positives, (p,).
        negative: Scores of the negatives, (n,).
        area: Pixels in the region of each positive, (p,); None where there are no regions.
        regions: Number of regions.
    """
    scores, order = torch.cat([positive, negative]).sort(descending=True)
    is_positive = order < len(positive)
    last = torch.ones_like(is_positive)
    last[:-1] = scores[1:] != scores[:-1]
    true_positive = is_positive.cumsum(0)[last].double()
    position = last.nonzero().flatten() + 1
    overlap = None
    if area is not None:
        weight = area.new_zeros(len(scores), dtype=torch.float64)
        weight[is_positive] = area[order[is_positive]].double().reciprocal()
        overlap = weight.cumsum(0)[last]
    scores = scores[last]
    return Counts(scores, scores, true_positive, position - true_positive, overlap, float(regions))


def steps(cumulative: Tensor) -> Tensor:
    """Return what each row adds to a cumulative count."""
    return torch.diff(cumulative, prepend=cumulative.new_zeros(1))


def from_zero(cumulative: Tensor) -> Tensor:
    """Return the cumulative count with the curve's first point, zero, in front."""
    return torch.cat([cumulative.new_zeros(1), cumulative])


def area_up_to(x: Tensor, y: Tensor, limit: float) -> Tensor:
    """Return the area under a piecewise linear curve with rising ``x``, cut at ``limit`` by linear interpolation."""
    inside = int(torch.searchsorted(x, torch.tensor(limit, dtype=x.dtype, device=x.device), right=True))
    area = torch.trapezoid(y[:inside], x[:inside])
    if 0 < inside < len(x):
        width = limit - x[inside - 1]
        slope = (y[inside] - y[inside - 1]) / (x[inside] - x[inside - 1])
        area = area + width * (y[inside - 1] + 0.5 * width * slope)
    return area
