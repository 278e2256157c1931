"""Reading cells back, means over classes and seeds, and comparing two methods image by image."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDER = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_200step")
IMAGE = ORDER[:3]


def read_cell(path: Path) -> dict[str, Any]:
    """Return the content of a cell's file; a missing one is an error like any other."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"error": "no result"}
    return content


def load(folder: Path) -> list[dict[str, Any]]:
    """Return all cells below a results folder, in a fixed order.

    Raises:
        FileNotFoundError: If there are none.
    """
    cells = [read_cell(path) for path in sorted((folder / "cells").glob("*/*/*.json"))]
    if not cells:
        raise FileNotFoundError(f"No results below '{folder}'; 'zsad benchmark --out {folder}' writes them.")
    return cells


@dataclass(frozen=True)
class OfDefect:
    """One kind of defect: its images against the normal images of its class; means over seeds, in [0, 1]."""

    counts: tuple[int, int]
    values: Mapping[str, float]


@dataclass(frozen=True)
class Summary:
    """A method on a data set.

    Args:
        data: Label of the data set.
        method: Label of the method.
        name: Registry name of the method.
        values: Metric -> mean over classes for each seed, in [0, 1].
        per_class: Class -> metric -> mean over seeds.
        bound: Greatest error bound of the pixel metrics.
        errors: Class -> what went wrong.
        images_per_s: Median over classes and seeds.
        peak_memory_mb: Greatest.
        backbone: Name.
        trained_on: What a trained method was fitted to, names joined by a plus sign.
        intervals: Metric -> bootstrap interval of the mean over classes and seeds, where every cell has one.
        counts: Class -> normal and anomalous images.
        per_defect: Class and kind of defect -> image metrics, where the cells know the kinds.
    """

    data: str
    method: str
    name: str
    values: Mapping[str, Sequence[float]]
    per_class: Mapping[str, Mapping[str, float]]
    bound: float
    errors: Mapping[str, str]
    images_per_s: float | None
    peak_memory_mb: float | None
    backbone: str
    trained_on: str
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    per_defect: Mapping[tuple[str, str], OfDefect] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return max((len(values) for values in self.values.values()), default=0)

    def mean(self, metric: str) -> float:
        """Mean over seeds; NaN without a value."""
        values = self.values.get(metric, ())
        return fmean(values) if values else math.nan

    def std(self, metric: str) -> float | None:
        """Standard deviation over seeds; None for one seed."""
        values = self.values.get(metric, ())
        return stdev(values) if len(values) > 1 else None


def summarise(cells: Iterable[Mapping[str, Any]]) -> list[Summary]:
    """Return one summary per data set and method, in the order of the registry."""
    from zsad.methods import list_methods

    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["data"]["label"], cell["method"]["label"]), []).append(cell)
    names = list_methods()
    ordered = sorted(groups, key=lambda key: (key[0], _place(names, groups[key][0]["method"]["name"]), key[1]))
    return [_summary(*key, groups[key]) for key in ordered]


def _place(names: Sequence[str], name: str) -> int:
    """Methods of other packages come last."""
    return names.index(name) if name in names else len(names)


def _summary(data: str, method: str, cells: Sequence[Mapping[str, Any]]) -> Summary:
    good = [cell for cell in cells if "error" not in cell]
    seeds = sorted({cell["seed"] for cell in good})
    metrics = [name for name in ORDER if any(name in cell["metrics"] for cell in good)]
    values: dict[str, list[float]] = {}
    per_class: dict[str, dict[str, float]] = {}
    for metric in metrics:
        for seed in seeds:
            found = [cell["metrics"].get(metric) for cell in good if cell["seed"] == seed]
            known = [value for value in found if value is not None]
            if known:
                values.setdefault(metric, []).append(fmean(known))
        for name in sorted({cell["class"] for cell in good}):
            known = [c["metrics"][metric] for c in good if c["class"] == name and c["metrics"].get(metric) is not None]
            if known:
                per_class.setdefault(name, {})[metric] = fmean(known)
    speeds = sorted(cell["images_per_s"] for cell in good if cell.get("images_per_s"))
    trained = next((cell["trained"] for cell in good if cell.get("trained")), None)
    return Summary(
        data=data,
        method=method,
        name=cells[0]["method"]["name"],
        values=values,
        per_class=per_class,
        bound=max((bound for cell in good for bound in cell["bounds"].values() if bound is not None), default=0.0),
        errors={cell["class"]: cell["error"] for cell in cells if "error" in cell},
        images_per_s=speeds[len(speeds) // 2] if speeds else None,
        peak_memory_mb=max((cell["peak_memory_mb"] for cell in good), default=None),
        backbone=good[0]["backbone"]["name"] if good else "",
        trained_on=_data_names(trained["on"]) if trained else "",
        intervals={metric: ends for metric in metrics if (ends := _interval(good, metric)) is not None},
        counts={cell["class"]: _counts(cell) for cell in good},
        per_defect=per_defect(good),
    )


def _data_names(on: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> str:
    """Return the names of the data sets that a model was trained on; earlier results hold one, not a list."""
    sets = [on] if isinstance(on, Mapping) else on or []
    return "+".join(str(one.get("name", "")) + (f" ({one['licence']})" if "licence" in one else "") for one in sets)


def _counts(cell: Mapping[str, Any]) -> tuple[int, int]:
    anomalous = sum(label for _, label, _ in cell["images"])
    return len(cell["images"]) - anomalous, anomalous


def per_defect(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], OfDefect]:
    """Return the image metrics of each kind of defect; empty for cells that do not know the kinds of their images.

    Args:
        cells: Of one method on one data set.
    """
    import torch

    from zsad.metrics import auroc, average_precision, f1_max

    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    counts = {}
    for cell in cells:
        kinds = cell.get("defects", ())
        labels = torch.tensor([label for _, label, _ in cell["images"]])
        scores = torch.tensor([score for *_, score in cell["images"]], dtype=torch.float64)
        for kind in sorted({kind for kind, label in zip(kinds, labels.tolist(), strict=bool(kinds)) if kind and label}):
            one = (labels == 0) | torch.tensor([other == kind for other in kinds])
            values = (float(metric(scores[one], labels[one])) for metric in (auroc, average_precision, f1_max))
            found.setdefault((cell["class"], kind), []).append(tuple(values))
            counts[cell["class"], kind] = (int((labels == 0).sum()), int(labels[one].sum()))
    return {
        key: OfDefect(counts[key], dict(zip(IMAGE, map(fmean, zip(*seeds, strict=True)), strict=True)))
        for key, seeds in found.items()
    }


def _interval(cells: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, float] | None:
    """Return the interval of the mean over classes and seeds, from the cells' own.

    Classes have no image in common, so the squares of their widths add up; seeds see the same images, so their widths
    are averaged.
    """
    widths: dict[str, list[tuple[float, float, float]]] = {}
    for cell in cells:
        value, ends = cell["metrics"].get(metric), cell.get("intervals", {}).get(metric)
        if value is not None:
            if not ends or None in ends:
                return None
            widths.setdefault(cell["class"], []).append((value, value - ends[0], ends[1] - value))
    if not widths:
        return None
    values, below, above = (
        [fmean(column) for column in columns]
        for columns in zip(*(zip(*rows, strict=True) for rows in widths.values()), strict=True)
    )
    mean, number = fmean(values), len(widths)
    return mean - math.hypot(*below) / number, mean + math.hypot(*above) / number


def _auroc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    from scipy.stats import rankdata

    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same images: mean image AUROC of the first minus that of the second, in [-1, 1]."""

    first: str
    second: str
    data: str
    difference: float
    low: float
    high: float
    images: int

    @property
    def clear(self) -> bool:
        """Whether the 95 % interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @property
    def sentence(self) -> str:
        """The finding in words, in points of image AUROC."""
        what = (
            f"{self.first} - {self.second} on {self.data}: {100 * self.difference:+.1f} points of mean image AUROC, "
            f"95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f} ({self.images} images)"
        )
        if not self.clear:
            return f"{what}: which is better cannot be said."
        return f"{what}: {self.first if self.difference > 0 else self.second} is better."


def compare(
    cells: Sequence[Mapping[str, Any]], data: str, first: str, second: str, resamples: int = 1000
) -> Comparison:
    """Compare two methods by a paired bootstrap: images are drawn anew per class, the same ones for both.

    Args:
        cells: All cells.
        data: Label of the data set.
        first: Label of a method.
        second: Label of another.
        resamples: Number of draws.

    Raises:
        ValueError: If they have no class in common with both labels.
    """
    tables: dict[str, dict[str, dict[str, tuple[int, float]]]] = {first: {}, second: {}}
    for cell in cells:
        label = cell["method"]["label"]
        if cell["data"]["label"] == data and label in tables and "error" not in cell:
            tables[label].setdefault(cell["class"], {path: (known, score) for path, known, score in cell["images"]})
    rng = np.random.default_rng(0)
    drawn, plain, images = [], [], 0
    for name in sorted(set(tables[first]) & set(tables[second])):
        paths = sorted(set(tables[first][name]) & set(tables[second][name]))
        labels = np.array([tables[first][name][path][0] for path in paths], dtype=bool)
        pair = [np.array([tables[method][name][path][1] for path in paths], dtype=float) for method in (first, second)]
        if labels.all() or not labels.any():
            continue
        images += len(paths)
        plain.append(_auroc(pair[0], labels) - _auroc(pair[1], labels))
        # drawn within each label, so that every draw has both
        places = [np.flatnonzero(labels == value) for value in (False, True)]
        rows = []
        for _ in range(resamples):
            chosen = np.concatenate([rng.choice(place, len(place)) for place in places])
            rows.append(_auroc(pair[0][chosen], labels[chosen]) - _auroc(pair[1][chosen], labels[chosen]))
        drawn.append(rows)
    if not drawn:
        raise ValueError(f"'{first}' and '{second}' have no class of {data} in common that has both labels.")
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return Comparison(first, second, data, fmean(plain), float(low), float(high), images)
