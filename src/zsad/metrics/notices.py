"""Warnings of the metrics: undefined values, wide error bounds, scores outside the declared range."""

import warnings

from zsad.metrics.counts import Counts


class UndefinedMetricWarning(UserWarning):
    """A metric has no value for this data and is NaN, e.g. the AUROC of images that are all anomalous."""


class WideBoundWarning(UserWarning):
    """A binned value is known less precisely than 1e-3; declare the range of the scores or use the exact mode."""


class ScoreRangeWarning(UserWarning):
    """Scores lie outside the declared range and were treated as equal to its end."""


class RepeatedImageWarning(UserWarning):
    """Images were seen by more than one process, as a padding sampler does it; they count twice."""


WIDE = 1e-3
"""Half-width from which a binned value is called imprecise."""


def why_undefined(counts: Counts, needs_regions: bool = False) -> str:
    """Return why no metric can be computed, in words; empty if it can."""
    if needs_regions and not counts.regions:
        return "no mask has a defect region"
    if not counts.positives:
        return "nothing is labelled anomalous"
    if not counts.negatives:
        return "nothing is labelled normal"
    return ""


def warn_undefined(metric: str, reason: str, stacklevel: int = 3) -> None:
    """Warn that a metric is NaN and why."""
    warnings.warn(f"{metric} is undefined (NaN): {reason}.", UndefinedMetricWarning, stacklevel=stacklevel + 1)


def warn_wide(metric: str, bound: float, stacklevel: int = 3) -> None:
    """Warn that a binned value is imprecise, if it is."""
    if bound > WIDE:
        warnings.warn(
            f"{metric} is only known to +-{bound:.1e}, because many scores share a bin: declare the range of the "
            "scores (score_range), use more bins (bits) or mode='exact'.",
            WideBoundWarning,
            stacklevel=stacklevel + 1,
        )


def warn_clamped(clamped: int, score_range: tuple[float, float] | None, what: str = "", stacklevel: int = 3) -> None:
    """Warn that scores were clamped, if any were."""
    if clamped and score_range is not None:
        warnings.warn(
            f"{clamped} scores{what} lie outside the declared range [{score_range[0]:g}, {score_range[1]:g}] and were "
            "clamped to it: declare a wider score_range, or None.",
            ScoreRangeWarning,
            stacklevel=stacklevel + 1,
        )
