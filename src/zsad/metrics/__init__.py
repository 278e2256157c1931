"""Metrics of anomaly detection, exact or in fixed memory, for images and pixels."""

from zsad.metrics.aupro import AUPRO, aupro
from zsad.metrics.auroc import AUROC, auroc
from zsad.metrics.average_precision import AveragePrecision, average_precision
from zsad.metrics.curves import Curve, plot_curves
from zsad.metrics.evaluator import Evaluator
from zsad.metrics.f1max import F1Max, f1_max
from zsad.metrics.names import DEFAULT_METRICS
from zsad.metrics.notices import (
    RepeatedImageWarning,
    ScoreRangeWarning,
    UndefinedMetricWarning,
    WideBoundWarning,
)
from zsad.metrics.regions import count_regions
from zsad.metrics.result import EvaluationResult

__all__ = [
    "AUPRO",
    "AUROC",
    "DEFAULT_METRICS",
    "AveragePrecision",
    "Curve",
    "EvaluationResult",
    "Evaluator",
    "F1Max",
    "RepeatedImageWarning",
    "ScoreRangeWarning",
    "UndefinedMetricWarning",
    "WideBoundWarning",
    "aupro",
    "auroc",
    "average_precision",
    "count_regions",
    "f1_max",
    "plot_curves",
]
