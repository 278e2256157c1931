"""AUPRO as defined, and as publications computed it."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from zsad.metrics.counts import Counts, area_up_to, from_zero

Variant = Literal["exact", "200step", "anomalib", "mvtec", "mvtec3d"]


def check_limit(fpr_limit: float) -> None:
    """Raise ``ValueError`` unless the limit lies in (0, 1]."""
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must lie in (0, 1], got {fpr_limit}.")


def aupro_steps(variant: Variant, steps: int | None) -> int:
    """Return the number of thresholds of a variant; 0 if it has none.

    Raises:
        ValueError: If there are fewer than 2, or the variant has none to choose.
    """
    default = {"200step": 200, "mvtec3d": 100}.get(variant, 0)
    if steps is None:
        return default
    if not default:
        raise ValueError(f"steps belongs to the variants '200step' and 'mvtec3d', but variant is '{variant}'.")
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}.")
    return steps


def curve(counts: Counts) -> tuple[Tensor, Tensor] | None:
    """Return false-positive rate and mean overlap at each row, from (0, 0) on; None where they are undefined."""
    if not counts.regions or not counts.negatives or counts.overlap is None:
        return None
    return from_zero(counts.false_positive) / counts.negatives, from_zero(counts.overlap) / counts.regions


def aupro_of(counts: Counts, fpr_limit: float = 0.3, steps: int = 0) -> Tensor:
    """Return the area under the overlap curve up to the limit, divided by the limit; NaN where it is undefined."""
    points = curve(counts)
    return _nan(counts) if points is None else area_up_to(*points, fpr_limit) / fpr_limit


def aupro_200step(counts: Counts, fpr_limit: float = 0.3, steps: int = 200) -> Tensor:
    """Return what the evaluation code released with AnomalyCLIP, VAND and AnoVL computes.

    Thresholds are equally spaced over the scores' range, positive is ``score > threshold``; only points strictly below
    the limit are kept, and their false-positive rates are stretched to [0, 1]. The value depends on the scale of the
    scores and is undefined (NaN) for constant maps and where fewer than two rates remain.
    """
    points = curve(counts)
    if points is None:
        return _nan(counts)
    low, high = float(counts.lowest[-1]), float(counts.highest[0])
    if not high > low:
        return _nan(counts)
    spacing = (high - low) / steps
    threshold = low + spacing * torch.arange(steps, dtype=torch.float64, device=points[0].device)
    rows = torch.searchsorted(-counts.lowest.double(), -threshold, right=False)  # rows wholly above each threshold
    fpr, overlap = points[0][rows], points[1][rows]
    kept = fpr < fpr_limit
    fpr, overlap = fpr[kept].flip(0), overlap[kept].flip(0)
    if not len(fpr) or not bool(fpr[-1] > fpr[0]):
        return _nan(counts)
    return torch.trapezoid(overlap, (fpr - fpr[0]) / (fpr[-1] - fpr[0]))


def aupro_anomalib(counts: Counts, fpr_limit: float = 0.3, steps: int = 0) -> Tensor:
    """Return what anomalib reports: the exact value, but 0 where it is undefined."""
    return aupro_of(counts, fpr_limit).nan_to_num(0.0)


def aupro_mvtec(counts: Counts, fpr_limit: float = 0.3, steps: int = 0) -> Tensor:
    """Return what MVTec's evaluation code for MVTec AD computes.

    The exact curve with rates in float32, clipped to 1 and ended at (1, 1), cut by linear interpolation.
    """
    points = curve(counts)
    if points is None:
        return _nan(counts)
    one = points[0].new_ones(1)
    fpr = (points[0] * counts.negatives).float() / counts.negatives
    return (
        area_up_to(torch.cat([fpr.double().clamp_max(1.0), one]), torch.cat([points[1].clamp_max(1.0), one]), fpr_limit)
        / fpr_limit
    )


def aupro_mvtec3d(counts: Counts, fpr_limit: float = 0.3, steps: int = 100) -> Tensor:
    """Return what MVTec's evaluation code for MVTec 3D-AD computes.

    Thresholds are the scores at equally spaced ranks of the normal pixels, positive is ``score > threshold``; rates
    are taken from the ranks, ties among normal pixels ignored, and the cut is interpolated linearly.
    """
    points = curve(counts)
    if points is None:
        return _nan(counts)
    total = int(counts.negatives)
    rank = torch.arange(steps, dtype=torch.float64, device=points[0].device) * ((total - 1) / (steps - 1))
    rank = rank.long().clamp_max_(total - 1)
    rank[-1] = total - 1
    row = torch.searchsorted(counts.false_positive, (total - 1 - rank).double(), right=True)  # row of each threshold
    one = points[0].new_ones(1)
    fpr = torch.cat([1 - (rank + 1).double().flip(0) / total, one])
    return area_up_to(fpr, torch.cat([points[1][row].flip(0), one]), fpr_limit) / fpr_limit


VARIANTS: Mapping[str, Callable[[Counts, float, int], Tensor]] = {
    "exact": aupro_of,
    "200step": aupro_200step,
    "anomalib": aupro_anomalib,
    "mvtec": aupro_mvtec,
    "mvtec3d": aupro_mvtec3d,
}
"""Name of a variant -> its value, given the counts, the limit and the number of thresholds."""


def _nan(counts: Counts) -> Tensor:
    return counts.true_positive.new_full((), torch.nan)
