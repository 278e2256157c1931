"""What the pure functions of scores and labels have in common."""

from collections.abc import Callable

from torch import Tensor

from zsad.metrics.accumulator import labelled
from zsad.metrics.counts import Counts, count_scores
from zsad.metrics.notices import warn_undefined, why_undefined


def exact_value(name: str, value: Callable[[Counts], Tensor], scores: Tensor, labels: Tensor) -> Tensor:
    """Return a metric of all scores at once; warns where it is undefined."""
    pixel = labelled(scores, labels).pixel
    flat = scores.flatten() if scores.dtype.itemsize == 8 else scores.flatten().float()
    is_positive = labels.flatten() > 0.5
    counts = count_scores(flat[pixel], flat[~is_positive])
    if reason := why_undefined(counts):
        warn_undefined(name, reason, stacklevel=4)
    return value(counts)
