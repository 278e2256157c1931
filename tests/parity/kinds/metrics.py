"""Metrics of stored maps and masks, in each mode that the options name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from tests.parity.outcome import Outcome
from zsad.metrics import AUPRO, AUROC, AveragePrecision, F1Max, UndefinedMetricWarning, count_regions

CURVES: dict[str, type[AUROC | AveragePrecision | F1Max]] = {"auroc": AUROC, "ap": AveragePrecision, "f1max": F1Max}
OPTIONS = {"precision", "score_range", "modes", "positive"}
SLACK = 1e-9  # rounding of float64 sums, on top of a bound


def run_case(
    case: dict[str, Any], load: Callable[[str], dict[str, Tensor]], memory: dict[str, Any] | None = None
) -> Iterator[Outcome]:
    """Compute every output in every mode; in binned mode also compare it with its own bound."""
    name, options = case["name"], case["options"]
    if case["kind"] != "unit:metrics":
        raise ValueError(f"Case '{name}' is of unknown kind '{case['kind']}'.")
    if unknown := set(options) - OPTIONS:
        raise ValueError(f"Case '{name}': unknown options {sorted(unknown)}.")
    if options["positive"] != "score >= threshold":
        raise ValueError(f"Case '{name}': positive='{options['positive']}' is not implemented.")
    if unknown := set(options["modes"]) - {"exact", "binned"}:
        raise ValueError(f"Case '{name}': unknown modes {sorted(unknown)}.")
    stored = load(case["file"])
    expected_type = getattr(torch, options["precision"])
    for key in ("maps", "image_scores"):
        if stored[key].dtype != expected_type:
            raise ValueError(f"Case '{name}': '{key}' is {stored[key].dtype}, the options say {expected_type}.")
    for mode in options["modes"]:
        for output, spec in case["outputs"].items():
            yield from run_output(output, spec, mode, case, stored)


def run_output(
    output: str, spec: dict[str, Any], mode: Literal["exact", "binned"], case: dict[str, Any], stored: dict[str, Tensor]
) -> Iterator[Outcome]:
    """One metric in one mode."""
    expected = math.nan if spec["value"] is None else float(spec["value"])
    atol = spec.get("atol_binned", spec["atol"]) if mode == "binned" else spec["atol"]
    common = {"rtol": spec.get("rtol", 0.0), "intermediate": bool(spec.get("intermediate", False)), "note": mode}
    if spec["metric"] == "regions":
        yield Outcome(output, float(count_regions(stored["masks"], spec["connectivity"])), expected, atol, **common)
        return
    metric = build(spec, mode, case)
    if isinstance(metric, AUPRO) or spec["level"] == "pixel":
        metric.update(stored["maps"], stored["masks"])
    else:
        metric.update(stored["image_scores"], stored[case["labels"]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = float(metric.compute())
    yield Outcome(output, got, expected, atol, **common)
    if math.isnan(expected) and spec["metric"] != "aupro_200step":
        told = [str(w.message) for w in caught if issubclass(w.category, UndefinedMetricWarning)]
        named = len(told) == 1 and type(metric).__name__ in told[0]
        yield Outcome(f"{output} warning", float(named), 1.0, 0.0, note=mode)
    if mode == "binned" and spec["level"] == "pixel" and not math.isnan(expected) and spec["metric"] != "aupro_200step":
        yield Outcome(f"{output} bound", got, expected, metric.bound() + SLACK, note=mode)


def build(
    spec: dict[str, Any], mode: Literal["exact", "binned"], case: dict[str, Any]
) -> AUROC | AveragePrecision | F1Max | AUPRO:
    """The metric that an output describes."""
    score_range = case["options"]["score_range"]
    common: dict[str, Any] = {"mode": mode, "score_range": None if score_range is None else tuple(score_range)}
    if spec["level"] not in ("image", "pixel"):
        raise ValueError(f"Case '{case['name']}': unknown level '{spec['level']}'.")
    if spec["metric"] in CURVES:
        if spec["level"] == "image":
            common["mode"] = "exact"  # image scores are few and kept whole in both modes
        return CURVES[spec["metric"]](**common)
    if spec["metric"] == "aupro":
        return AUPRO(spec["fpr_limit"], spec["connectivity"], **common)
    if spec["metric"] == "aupro_200step":
        return AUPRO(spec["fpr_limit"], spec["connectivity"], variant="200step", steps=spec["steps"], **common)
    raise ValueError(f"Case '{case['name']}': unknown metric '{spec['metric']}'.")
