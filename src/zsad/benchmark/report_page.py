"""The page of a benchmark: sortable tables, charts, curves, comparisons and pictures in one HTML file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from zsad.benchmark.details import Curves
from zsad.benchmark.grid import safe_name
from zsad.benchmark.results import Comparison, Summary
from zsad.benchmark.tables import (
    INTERVALS,
    PER_CLASS,
    PER_DEFECT,
    TITLES,
    beside_table,
    class_table,
    defect_table,
    intervals,
    overview,
    rows,
)
from zsad.metrics.curves import AXES
from zsad.report import page
from zsad.report.charts import Mark, bars, lines, marks, scatter


def html(
    folder: Path,
    summaries: Sequence[Summary],
    notes: Sequence[str],
    found: Sequence[Comparison],
    curves: Mapping[str, Curves],
) -> str:
    """Return the whole page: tables that sort, charts, statistics and pictures, with nothing outside the file.

    Args:
        folder: The results folder, which has the pictures.
        summaries: What to show.
        notes: Sentences on top.
        found: Paired comparisons.
        curves: Data set -> curves to draw.
    """
    look = marks([one.method for one in summaries])
    parts = [page.paragraph(note, "note") for note in notes]
    for data in dict.fromkeys(one.data for one in summaries):
        parts += _means(summaries, data)
        parts += _details(summaries, data)
        parts.append(page.beside(_charts(summaries, data, look)))
        parts.append(page.beside(_curves(data, curves.get(data, {}), look)))
        parts += _pictures(folder, data, summaries)
    return page.page("zsad benchmark", [*parts, *_comparisons(found)])


def _means(summaries: Sequence[Summary], data: str) -> list[str]:
    here = [one for one in summaries if one.data == data]
    head, body = overview(summaries, data)
    keyed: list[list[str | float | None]] = [[line[0], *map(_sortable, line[1:])] for line in body]
    for line, one in zip(keyed, here, strict=True):
        line += [one.images_per_s, one.peak_memory_mb, one.backbone, one.trained_on or "-"]
    heads = [*head, "images/s", "memory, MB", "backbone", "trained on"]
    parts = [
        page.heading(f"{data}: mean over classes"),
        page.table(heads, keyed, "Per cent; a click on a head sorts."),
    ]
    if found_intervals := intervals(summaries, data):
        parts.append(page.table(*found_intervals, INTERVALS))
    beside = [row for row in rows(summaries) if row["data"] == data and (row["published"] is not None or row["others"])]
    if beside:
        parts.append(page.heading(f"{data}: beside the published numbers"))
        parts.append(page.table(*beside_table(beside)))
    return parts


def _details(summaries: Sequence[Summary], data: str) -> list[str]:
    parts = []
    for caption, found in ((PER_CLASS, class_table(summaries, data)), (PER_DEFECT, defect_table(summaries, data))):
        if found:
            head, body = found
            texts = head.index("method") + 1
            keyed = [[*line[:texts], *map(_sortable, line[texts:])] for line in body]
            title = f"{data}: {caption.partition(',')[0].lower()}"
            parts.append(page.details(title, page.table(head, keyed, caption)))
    return parts


def _charts(summaries: Sequence[Summary], data: str, look: Mapping[str, Mark]) -> list[str]:
    here = [one for one in summaries if one.data == data]
    points = [(one.method, one.images_per_s, 100 * one.mean("image_auroc")) for one in here if one.images_per_s]
    speed = scatter(points, "images per second", "mean image AUROC, per cent", look)
    parts = [page.heading(f"{data}: speed and accuracy") + speed] if speed else []
    for metric in ("image_auroc", "pixel_auroc"):
        groups = {
            one.method: {name: 100 * values[metric] for name, values in one.per_class.items() if metric in values}
            for one in here
        }
        if any(groups.values()):
            parts.append(page.heading(f"{data}: {TITLES[metric]} per class") + bars(groups, look))
    return parts


def _curves(data: str, curves: Curves, look: Mapping[str, Mark]) -> list[str]:
    parts = []
    for (class_name, kind), by_method in curves.items():
        chart = lines({m: (c.x.tolist(), c.y.tolist()) for m, c in by_method.items()}, *AXES[kind[6:]], look)
        parts.append(page.heading(f"{data}, {class_name}: {kind.replace('_', ' ')} curve") + chart)
    return parts


def _comparisons(found: Sequence[Comparison]) -> list[str]:
    if not found:
        return []
    body: list[list[str | float | None]] = [
        [one.data, one.first, one.second, 100 * one.difference, 100 * one.low, 100 * one.high,
         "yes" if one.clear else "cannot be said"]
        for one in found
    ]  # fmt: skip
    caption = "Difference of mean image AUROC in points, 95 % interval of a paired bootstrap over images."
    head = ["data", "first", "second", "difference", "from", "to", "different?"]
    return [page.heading("Is the best method better?"), page.table(head, body, caption)]


def _sortable(text: str) -> str | float | None:
    return None if text == "-" else float(text) if re.fullmatch(r"-?\d+\.\d", text) else text


def _pictures(folder: Path, data: str, summaries: Sequence[Summary]) -> list[str]:
    """Best, median and worst map per class of the first method that left pictures."""
    parts: list[str] = []
    for one in (one for one in summaries if one.data == data):
        mine = sorted((folder / "pictures" / safe_name(one.method) / safe_name(data)).glob("*.jpg"))
        if mine:
            parts.append(page.heading(f"{data}: {one.method}, best, median and worst map per class"))
            with_captions = [(file, file.stem.replace("-s0-", ", ")) for file in mine]
            parts.append(
                page.pictures(page.picture(Image.open(file).convert("RGB"), text) for file, text in with_captions)
            )
    return parts
