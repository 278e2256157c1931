"""Names of metrics as they appear in results, and how each is computed from counts."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from zsad.metrics.aupro import aupro_bound
from zsad.metrics.aupro_variants import VARIANTS, aupro_steps, check_limit
from zsad.metrics.auroc import auroc_bound, auroc_of
from zsad.metrics.average_precision import average_precision_bound, average_precision_of
from zsad.metrics.counts import Counts
from zsad.metrics.f1max import f1_max_bound, f1_max_of

DEFAULT_METRICS = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
_CURVE = {
    "auroc": (auroc_of, auroc_bound),
    "ap": (average_precision_of, average_precision_bound),
    "f1max": (f1_max_of, f1_max_bound),
}
_BOUNDED = ("exact", "anomalib", "mvtec")


class NamedMetric(NamedTuple):
    """How to compute one entry of a result."""

    level: str
    """``"image"`` or ``"pixel"``."""
    value: Callable[[Counts], Tensor]
    bound: Callable[[Counts], float] | None
    """How far binning may have moved the value; None if nobody knows."""
    needs_regions: bool


def named_metric(name: str, fpr_limit: float = 0.3) -> NamedMetric:
    """Return how to compute a metric by its name in results.

    Args:
        name: ``"image_"`` or ``"pixel_"`` and ``auroc``, ``ap`` or ``f1max``; or ``"aupro"``, a published variant of
            it (``"aupro_200step"``, ``"aupro_anomalib"``, ``"aupro_mvtec"``, ``"aupro_mvtec3d"``), each also with a
            limit of its own, e.g. ``"aupro@0.05"``.
        fpr_limit: Limit of ``aupro`` where the name gives none.

    Raises:
        ValueError: If there is no such metric; the message lists them.
    """
    level, _, curve = name.partition("_")
    if level in ("image", "pixel") and curve in _CURVE:
        return NamedMetric(level, *_CURVE[curve], needs_regions=False)
    base, at, limit = name.partition("@")
    variant = "exact" if base == "aupro" else base.removeprefix("aupro_")
    if not base.startswith("aupro") or (variant == "exact") != (base == "aupro") or variant not in VARIANTS:
        variants = ", ".join(f"aupro_{known}" for known in VARIANTS if known != "exact")
        raise ValueError(
            f"Unknown metric '{name}'; known are {', '.join(DEFAULT_METRICS)}, {variants}, and aupro@0.05."
        )
    try:
        fpr_limit = float(limit) if at else fpr_limit
    except ValueError:
        raise ValueError(
            f"'{name}' must end in a number, the greatest false-positive rate, as in aupro@0.05."
        ) from None
    check_limit(fpr_limit)
    value = partial(VARIANTS[variant], fpr_limit=fpr_limit, steps=aupro_steps(variant, None))  # type: ignore[call-arg, arg-type]
    bound = partial(aupro_bound, fpr_limit=fpr_limit) if variant in _BOUNDED else None
    return NamedMetric("pixel", value, bound, needs_regions=True)
