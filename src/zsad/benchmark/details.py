"""Curves of the image scores that a benchmark's cells hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zsad.metrics.counts import count_scores
from zsad.metrics.curves import Curve, pr_curve, roc_curve

Curves = dict[tuple[str, str], dict[str, Curve]]
"""Class and kind (``"image_roc"``, ``"image_pr"``) -> method -> curve."""


def image_curves(cells: Sequence[Mapping[str, Any]]) -> dict[str, Curves]:
    """Return data set -> the curves of each class that has normal and anomalous images; of the lowest seed.

    Args:
        cells: Of any methods and data sets.
    """
    found: dict[str, Curves] = {}
    for cell in sorted(cells, key=lambda one: one["seed"]):
        labels = torch.tensor([label for _, label, _ in cell.get("images", ())])
        if "error" in cell or labels.unique().numel() < 2:
            continue
        scores = torch.tensor([score for *_, score in cell["images"]], dtype=torch.float64)
        counts = count_scores(scores[labels == 1], scores[labels == 0])
        for kind, curve in (("image_roc", roc_curve), ("image_pr", pr_curve)):
            by_method = found.setdefault(cell["data"]["label"], {}).setdefault((cell["class"], kind), {})
            by_method.setdefault(cell["method"]["label"], curve(counts))
    return found
