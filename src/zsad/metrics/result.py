"""What an evaluation found, per class and in the mean."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.metrics.curves import Curve, plot_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

TITLES = {"auroc": "AUROC", "ap": "AP", "f1max": "F1-max", "aupro": "AUPRO"}


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics in [0, 1] by class, their unweighted mean over the classes, and what is needed to judge them."""

    per_class: dict[str, dict[str, float]]
    """Class -> metric -> value; a metric without its data (no masks) is absent, an undefined one is NaN."""
    mean: dict[str, float]
    """Metric -> mean over the classes that have a value; NaN if none has."""
    left_out: dict[str, list[str]]
    """Metric -> classes that its mean leaves out, because their value is undefined."""
    counts: dict[str, tuple[int, int]]
    """Class -> number of (normal, anomalous) images with a known label."""
    bounds: dict[str, dict[str, float]]
    """Class -> pixel metric -> how far the binned value may be from the exact one; empty in the exact mode."""
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    """Class -> metric -> bootstrap interval; empty unless asked for."""
    mean_intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Metric -> bootstrap interval of the mean."""
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    """Class -> kind (``image_roc``, ``image_pr``, ``pixel_roc``, ``pixel_pr``, ``pro``) -> curve, if asked for."""

    @property
    def pixel_bound(self) -> float:
        """The widest bound of all classes and metrics; 0 in the exact mode."""
        return max((bound for bounds in self.bounds.values() for bound in bounds.values()), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON; NaN becomes None. Curves are left out."""
        found = {
            "mean": self.mean,
            "per_class": self.per_class,
            "left_out": self.left_out,
            "counts": self.counts,
            "bounds": self.bounds,
            "intervals": self.intervals,
            "mean_intervals": self.mean_intervals,
        }
        plain: dict[str, Any] = _plain(found)
        return plain

    def table(self, title: str = "") -> "Table":
        """Return a rich table in per cent with one decimal, a row per class and the mean below; ``-`` is undefined."""
        from rich.table import Table

        heads, rows = self.grid()
        table = Table(title=title or None)
        for number, head in enumerate(heads):
            table.add_column(head, justify="right" if number else "left")
        for row in rows:
            if row[0] == "mean":
                table.add_section()
            table.add_row(*row, style="bold" if row[0] == "mean" else None)
        table.caption = self.caption()
        return table

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """Return heads and rows of the table as text, the mean last where there are several classes."""
        rows = []
        for name, values in self.per_class.items():
            normal, anomalous = self.counts[name]
            cells = [_cell(values.get(m, math.nan), self.intervals.get(name, {}).get(m)) for m in self.mean]
            rows.append([name, f"{normal}+{anomalous}", *cells])
        if len(self.per_class) != 1:
            total = [sum(column) for column in zip(*self.counts.values(), strict=True)] or [0, 0]
            cells = [_cell(value, self.mean_intervals.get(metric)) for metric, value in self.mean.items()]
            rows.append(["mean", f"{total[0]}+{total[1]}", *cells])
        return ["class", "images", *map(metric_title, self.mean)], rows

    def caption(self) -> str | None:
        """Return what stands below the table: where classes were left out of a mean; None if none was."""
        if not any(self.left_out.values()):
            return None
        text = "; ".join(f"{metric_title(m)}: {len(names)}" for m, names in self.left_out.items() if names)
        return f"Classes left out because the metric is undefined there: {text}."

    def figure(self, kind: str) -> "Figure":
        """Return a matplotlib figure of one kind of curve with one line per class.

        Args:
            kind: ``"image_roc"``, ``"image_pr"``, ``"pixel_roc"``, ``"pixel_pr"`` or ``"pro"``.

        Raises:
            ValueError: If there is no such curve; the evaluator collects curves with ``curves=True`` only.
        """
        lines = {name: curves[kind] for name, curves in self.curves.items() if kind in curves}
        if not lines:
            kinds = sorted({known for curves in self.curves.values() for known in curves})
            have = f"there are {', '.join(kinds)}" if kinds else "none were collected; use Evaluator(curves=True)"
            raise ValueError(f"There is no curve '{kind}': {have}.")
        return plot_curves(lines, kind)

    def write_curves(self, folder: Path) -> list[Path]:
        """Write ``curves.json`` (class -> kind -> x, y, threshold) and an SVG picture per kind; return the paths.

        Args:
            folder: Made if it does not exist.

        Raises:
            ValueError: If no curves were collected.
        """
        kinds = sorted({kind for curves in self.curves.values() for kind in curves})
        figures = {kind: self.figure(kind) for kind in kinds or ["image_roc"]}
        folder.mkdir(parents=True, exist_ok=True)
        numbers = {name: {kind: curve.to_dict() for kind, curve in curves.items()} for name, curves in
                   self.curves.items()}  # fmt: skip
        (folder / "curves.json").write_text(json.dumps(numbers), encoding="utf-8")
        for kind, figure in figures.items():
            figure.savefig(folder / f"{kind}.svg", metadata={"Date": None})
        return [folder / "curves.json", *(folder / f"{kind}.svg" for kind in figures)]


def metric_title(metric: str) -> str:
    """Return the heading of a metric: ``"pixel_f1max"`` becomes ``"pixel F1-max"``."""
    level, _, name = metric.partition("_") if metric.startswith(("image_", "pixel_")) else ("", "", metric)
    base, mark, rest = name.partition("@") if "@" in name else name.partition("_")
    return f"{level} {TITLES.get(base, base)}{' ' if mark == '_' else mark}{rest}".strip()


def mean_of(per_class: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """Return the mean over the classes with a value; NaN if none has one."""
    values = [found[metric] for found in per_class.values() if metric in found and not math.isnan(found[metric])]
    return math.fsum(values) / len(values) if values else math.nan


def _cell(value: float, interval: tuple[float, float] | None) -> str:
    if math.isnan(value):
        return "-"
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
