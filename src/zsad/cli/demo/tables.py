"""The demo's tables: means, classes, and what no method should be worse than; in the terminal whole at any width."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from zsad.cli.demo.scoring import CHOSEN, TRIVIAL, Outcome, chosen_options
from zsad.report.terminal import tables

METRICS = {
    "image AUROC": "image_auroc",
    "image AP": "image_ap",
    "image F1-max": "image_f1max",
    "pixel AUROC": "pixel_auroc",
    "pixel AP": "pixel_ap",
    "AUPRO": "aupro",
}
"""Head of a column -> name of the metric."""


def mean_rows(outcomes: Mapping[str, Outcome]) -> list[list[str | float | None]]:
    """Return one row per outcome: its name, the metrics in per cent, the seconds; the mean over classes."""
    rows: list[list[str | float | None]] = []
    for name, outcome in outcomes.items():
        values = [_percent(outcome.metrics.mean, key, name) for key in METRICS.values()]
        rows.append([name, *values, outcome.seconds])
    return rows


def class_rows(outcomes: Mapping[str, Outcome], metric: str) -> list[list[str | float | None]]:
    """Return one row per class: its name, then one metric in per cent for each outcome; the last row is the mean."""
    classes = sorted({name for outcome in outcomes.values() for name in outcome.metrics.per_class})
    rows: list[list[str | float | None]] = []
    for class_name in classes:
        cells = [_percent(one.metrics.per_class.get(class_name, {}), metric, name) for name, one in outcomes.items()]
        rows.append([class_name, *cells])
    rows.append(["mean", *(_percent(one.metrics.mean, metric, name) for name, one in outcomes.items())])
    return rows


def below_trivial(outcomes: Mapping[str, Outcome]) -> str:
    """Return a sentence on the methods whose mean AUROC a score without any model beats, "" if there is none."""
    phrases = []
    for metric in ("image_auroc", "pixel_auroc"):
        values = {name: _percent(one.metrics.mean, metric, name) or 0.0 for name, one in outcomes.items()}
        best = max(values[name] for name in TRIVIAL)
        beaten = [f"{name} ({value:.1f})" for name, value in values.items() if name not in TRIVIAL and value < best]
        if beaten:
            phrases.append(f"{title(metric)} {best:.1f}: {', '.join(beaten)}")
    return f"Not better here than a score without any model, {'; '.join(phrases)}." if phrases else ""


def title(metric: str) -> str:
    """Return a metric's name as people write it."""
    return metric.replace("_", " ").replace("auroc", "AUROC")


def _percent(values: Mapping[str, float], metric: str, name: str) -> float | None:
    if name == TRIVIAL[0] and metric.startswith("image"):  # the centre prior says nothing of an image as a whole
        return None
    value = values.get(metric)
    return None if value is None else 100 * float(value)


def show(outcomes: Mapping[str, Outcome], console: Console) -> None:
    """Print the table of means and the two tables of classes."""
    print_whole(console, "mean over classes, per cent (synthetic, mini CLIP)", ["", *METRICS, "s"], mean_rows(outcomes))
    for metric in ("image_auroc", "pixel_auroc"):
        what = f"{title(metric)} per class, per cent (synthetic, mini CLIP)"
        print_whole(console, what, ["class", *outcomes], class_rows(outcomes, metric))
    if sentence := below_trivial(outcomes):
        console.print(f"[yellow]{sentence}[/yellow]")
    if CHOSEN.keys() <= outcomes.keys():
        console.print(chosen_options(), highlight=False)


def plain(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return name of a row -> its metrics in [0, 1] and its seconds, ready for JSON."""
    return {name: one.metrics.to_dict() | {"seconds": one.seconds} for name, one in outcomes.items()}


def print_whole(
    console: Console, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]
) -> None:
    """Print a table whole: columns that find no room go into a further table, with the first column again."""
    texts = [[_text(cell) for cell in row] for row in rows]
    styles = ["dim" if row[0] in TRIVIAL else "" for row in rows]
    numbers = range(1, len(columns))
    for table in tables(columns, texts, console.width, caption, further=True, right=numbers, styles=styles):
        console.print(table)


def _text(cell: str | float | None) -> str:
    if cell is None or cell != cell:  # NaN: undefined
        return "-"
    return cell if isinstance(cell, str) else f"{cell:.1f}"
