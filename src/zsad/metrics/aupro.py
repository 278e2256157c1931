"""Area under the per-region overlap curve."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zsad.metrics.accumulator import Mode, ScoreMetric
from zsad.metrics.aupro_variants import VARIANTS, Variant, aupro_of, aupro_steps, check_limit
from zsad.metrics.counts import Counts, steps
from zsad.metrics.pairs import Resize, as_pairs, check_finite
from zsad.metrics.regions import Connectivity, check_connectivity, find_regions


def aupro(
    anomaly_map: Tensor | Sequence[Tensor],
    gt_mask: Tensor | Sequence[Tensor],
    fpr_limit: float = 0.3,
    connectivity: Connectivity = 8,
    variant: Variant = "exact",
    steps: int | None = None,
) -> Tensor:
    """Return the mean overlap of defect regions with the detection, averaged over false-positive rates up to a limit.

    The curve has one point per distinct score, starts at (0, 0), is linear between points and is cut at the limit by
    linear interpolation; its area is divided by the limit.

    Args:
        anomaly_map: Finite scores, (height, width), (batch, height, width), (batch, 1, height, width) or one
            (height, width) tensor per image; larger means more anomalous. Only the order matters, except for the
            variant ``"200step"``.
        gt_mask: Masks of the same sizes; defect where ``> 0.5``.
        fpr_limit: Greatest false-positive rate, in (0, 1].
        connectivity: 8 if diagonal neighbours belong to one region, 4 if they do not.
        variant: ``"exact"``, or how a publication computed it: ``"200step"`` (AnomalyCLIP, VAND, AnoVL),
            ``"anomalib"``, ``"mvtec"`` (MVTec AD), ``"mvtec3d"`` (MVTec 3D-AD).
        steps: Number of thresholds of ``"200step"`` (default 200) and ``"mvtec3d"`` (default 100).

    Returns:
        Float64 scalar in [0, 1]; NaN with an :class:`UndefinedMetricWarning` if there is no region or no normal
        pixel.

    Raises:
        ValueError: If shapes do not fit, a score is not finite or an option is unknown.

    References:
        Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 4.2.

    Example:
        >>> aupro(torch.tensor([[3.0, 2.0], [1.0, 0.0]]), torch.tensor([[1, 0], [0, 0]])).item()
        1.0
    """
    metric = AUPRO(fpr_limit, connectivity, variant, steps, mode="exact")
    metric.update(anomaly_map, gt_mask)
    return metric.compute()


def aupro_bound(counts: Counts, fpr_limit: float = 0.3) -> float:
    """Return how far binning may have moved the exact area: half of what the curve spans inside each row.

    A row that the limit cuts counts in full; the rounding of integer region weights is added.
    """
    if not counts.regions or not counts.negatives or counts.overlap is None:
        return 0.0
    fpr = counts.false_positive / counts.negatives
    width, height = steps(fpr), steps(counts.overlap / counts.regions)
    begins = fpr - width
    factor = torch.where(fpr <= fpr_limit, 0.5, 1.0) * (begins < fpr_limit) * (counts.highest > counts.lowest)
    return float((width * height * factor).sum()) / fpr_limit + counts.overlap_error


class AUPRO(ScoreMetric):
    """Area under the per-region overlap curve, of maps from any number of batches and processes.

    An image must not be split between updates; images may differ in size.

    Args:
        fpr_limit: Greatest false-positive rate, in (0, 1].
        connectivity: 8 if diagonal neighbours belong to one region, 4 if they do not.
        variant: ``"exact"`` or a published way to compute it, see :func:`aupro`.
        steps: Number of thresholds of the variants that have one.
        mode: ``"binned"`` has a fixed memory and an error that :meth:`bound` reports; ``"exact"`` keeps all scores.
        score_range: Range of the scores, if it is known; makes the bins finer. Scores may be anything otherwise.
        bits: Binary logarithm of the number of bins; by default see :class:`~zsad.metrics.bins.ScoreBins`.
        integer_weights: Hold region weights as integers: the binned state is then the same bit by bit whatever the
            order, the batches, the device and the number of processes.
        resize: What to do where a mask and its map differ in size: ``"error"``, or resize the ``"mask"`` or ``"map"``.
        **kwargs: Of ``torchmetrics.Metric``.

    Raises:
        ValueError: If an option is out of bounds.

    Example:
        >>> metric = AUPRO(mode="exact")
        >>> metric.update(torch.tensor([[[3.0, 2.0], [1.0, 0.0]]]), torch.tensor([[[1, 0], [0, 0]]]))
        >>> metric.compute().item()
        1.0
    """

    def __init__(
        self,
        fpr_limit: float = 0.3,
        connectivity: Connectivity = 8,
        variant: Variant = "exact",
        steps: int | None = None,
        mode: Mode = "binned",
        score_range: tuple[float, float] | None = None,
        bits: int | None = None,
        integer_weights: bool = True,
        resize: Resize = "error",
        **kwargs: Any,
    ) -> None:
        check_limit(fpr_limit)
        check_connectivity(connectivity)
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}.")
        super().__init__(mode, score_range, bits, regions=True, integer_weights=integer_weights, **kwargs)
        self.fpr_limit = fpr_limit
        self.connectivity = connectivity
        self.variant = variant
        self.steps = aupro_steps(variant, steps)
        self.resize = resize

    def update(self, anomaly_map: Tensor | Sequence[Tensor], gt_mask: Tensor | Sequence[Tensor]) -> None:
        """Add whole images.

        Args:
            anomaly_map: (height, width), (batch, height, width), (batch, 1, height, width) or one tensor per image.
            gt_mask: Masks of the same sizes; defect where ``> 0.5``.

        Raises:
            ValueError: If shapes do not fit or a score is not finite.
        """
        pairs = as_pairs(anomaly_map, gt_mask, self.resize)
        regions = [find_regions(mask, self.connectivity) for _, mask in pairs]
        check_finite([scores for scores, _ in pairs], "anomaly_map")
        for (scores, _), found in zip(pairs, regions, strict=True):
            self.add(scores, found)

    def value(self, counts: Counts) -> Tensor:
        """Return the metric, NaN where it is undefined."""
        return VARIANTS[self.variant](counts, self.fpr_limit, self.steps)

    def error_bound(self, counts: Counts) -> float:
        """Return how far the value may be from the exact one; NaN for variants that depend on the scale of scores."""
        if self.mode == "exact":
            return 0.0
        return aupro_bound(counts, self.fpr_limit) if self.variant in ("exact", "anomalib", "mvtec") else float("nan")


__all__ = ["AUPRO", "aupro", "aupro_bound", "aupro_of"]
