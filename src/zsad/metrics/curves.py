"""ROC, precision-recall and per-region overlap curves, as arrays and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zsad.metrics.counts import Counts, from_zero

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CurveKind = Literal["image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro"]
AXES = {"roc": ("false-positive rate", "true-positive rate"), "pr": ("recall", "precision")}
AXES["pro"] = ("false-positive rate", "mean overlap of the regions")


@dataclass(frozen=True)
class Curve:
    """A curve as arrays of equal length; what is detected at a point is ``score >= threshold``."""

    x: npt.NDArray[np.float64]
    """False-positive rate, or recall."""
    y: npt.NDArray[np.float64]
    """True-positive rate, precision, or mean overlap of the regions."""
    threshold: npt.NDArray[np.float64]
    """Threshold of each point, falling; infinite where nothing is detected."""

    def to_dict(self) -> dict[str, list[float]]:
        """Return lists of numbers; an infinite threshold becomes the next one."""
        finite = np.where(np.isfinite(self.threshold), self.threshold, self.threshold[min(1, len(self.threshold) - 1)])
        return {"x": self.x.tolist(), "y": self.y.tolist(), "threshold": finite.tolist()}


def roc_curve(counts: Counts, points: int = 1000) -> Curve:
    """Return the ROC curve from (0, 0) to (1, 1), thinned to about ``points`` points."""
    x, y = from_zero(counts.false_positive) / counts.negatives, from_zero(counts.true_positive) / counts.positives
    return _curve(x, y, counts, points)


def pr_curve(counts: Counts, points: int = 1000) -> Curve:
    """Return precision over recall from recall 0, where precision is that of the highest score."""
    precision = counts.true_positive / (counts.true_positive + counts.false_positive)
    return _curve(
        from_zero(counts.true_positive) / counts.positives, torch.cat([precision[:1], precision]), counts, points
    )


def pro_curve(counts: Counts, points: int = 1000) -> Curve:
    """Return the mean overlap of the regions over the false-positive rate, from (0, 0) on."""
    if counts.overlap is None:
        raise ValueError("These counts have no regions: the overlap curve needs masks.")
    x, y = from_zero(counts.false_positive) / counts.negatives, from_zero(counts.overlap) / counts.regions
    return _curve(x, y, counts, points)


def _curve(x: Tensor, y: Tensor, counts: Counts, points: int) -> Curve:
    threshold = torch.cat([counts.lowest.new_full((1,), torch.inf), counts.lowest]).double()
    x, y, threshold = x.cpu(), y.cpu(), threshold.cpu()
    if len(x) > points:  # equal steps along the curve, so that steep and flat parts keep their shape
        length = from_zero((x.diff().abs() + y.diff().abs()).cumsum(0))
        at = torch.searchsorted(length, torch.linspace(0, float(length[-1]), points, dtype=length.dtype))
        keep = at.clamp_max(len(x) - 1).unique()
        x, y, threshold = x[keep], y[keep], threshold[keep]
    return Curve(x.numpy(), y.numpy(), threshold.numpy())


def plot_curves(curves: Mapping[str, Curve], kind: str, ax: Any = None) -> "Figure":
    """Return a matplotlib figure with one line per entry.

    Args:
        curves: Name of a line -> its curve.
        kind: Kind of the curves, which names the axes: ``"image_roc"``, ``"image_pr"``, ``"pixel_roc"``,
            ``"pixel_pr"`` or ``"pro"``.
        ax: Matplotlib axes to draw into; a new figure by default.
    """
    from matplotlib.figure import Figure

    if ax is None:
        ax = Figure(figsize=(5, 5), layout="constrained").add_subplot()
    x_name, y_name = AXES[kind.rpartition("_")[2]]
    for name, curve in curves.items():
        ax.plot(curve.x, curve.y, label=name)
    ax.set(xlabel=x_name, ylabel=y_name, xlim=(0, 1), ylim=(0, 1.02), title=kind.replace("_", " "))
    if len(curves) > 1:
        ax.legend(fontsize="small")
    figure: Figure = ax.get_figure()
    return figure
