"""``zsad report``: Markdown, CSV, LaTeX and one HTML page from a results folder."""

import argparse
import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from zsad.benchmark.grid import safe_name
from zsad.benchmark.published import lookup
from zsad.benchmark.results import ORDER, Comparison, Summary, compare, load, summarise
from zsad.methods import METHODS
from zsad.report import page
from zsad.report.charts import bars, scatter

TITLES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "aupro": "AUPRO",
    "aupro_200step": "AUPRO, 200 steps",
}
NOT_RUN = "not run"
_INTERVALS = "95 % intervals of these means, by a bootstrap over the images of each class."
COLUMNS = (
    "data",
    "method",
    "metric",
    "ours",
    "std",
    "seeds",
    "low",
    "high",
    "published",
    "source",
    "difference",
    "others",
)


def rows(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Return one row per data set, method and metric, in per cent: ours, published, difference, independent runs.

    A method of the registry without a result stands with what is published for it and no number of ours.
    """
    result = []
    for data in dict.fromkeys(one.data for one in summaries):
        here = {one.method: one for one in summaries if one.data == data}
        metrics = [metric for metric in ORDER if any(metric in one.values for one in here.values())]
        absent = [name for name in METHODS if name not in {one.name for one in here.values()}]
        for label in [*here, *absent]:
            one = here.get(label)
            for metric in metrics:
                printed = lookup(data, one.name if one else label, metric)
                others = lookup(data, one.name if one else label, metric, ("log", "rerun"))
                ours = 100 * one.mean(metric) if one else math.nan
                std = one.std(metric) if one else None
                if one is None and not printed and not others:
                    continue
                result.append(
                    {
                        "data": data,
                        "method": label,
                        "metric": metric,
                        "ours": None if math.isnan(ours) else ours,
                        "std": None if std is None else 100 * std,
                        "seeds": len(one.values.get(metric, ())) if one else 0,
                        "low": 100 * one.intervals[metric][0] if one and metric in one.intervals else None,
                        "high": 100 * one.intervals[metric][1] if one and metric in one.intervals else None,
                        "published": printed[0].value if printed else None,
                        "source": printed[0].source if printed else "",
                        "difference": ours - printed[0].value if printed and not math.isnan(ours) else None,
                        "others": "; ".join(f"{other.value:.1f} ({other.source})" for other in others),
                    }
                )
    return result


def _number(value: float | None, sign: bool = False) -> str:
    return "-" if value is None else f"{value:+.1f}" if sign else f"{value:.1f}"


def _ours(row: Mapping[str, Any]) -> str:
    if row["ours"] is None:
        return NOT_RUN if not row["seeds"] else "-"
    return _number(row["ours"]) + ("" if row["std"] is None else f" ± {row['std']:.1f}")


def overview(summaries: Sequence[Summary], data: str) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of means of a data set, numbers as text in per cent."""
    here = [one for one in summaries if one.data == data]
    metrics = [metric for metric in ORDER if any(metric in one.values for one in here)]
    body = []
    for one in here:
        cells = []
        for metric in metrics:
            value, std = one.mean(metric), one.std(metric)
            cells.append(
                "-" if math.isnan(value) else f"{100 * value:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")
            )
        failed = f" ({len(one.errors)} classes failed)" if one.errors else ""
        body.append([one.method + failed, *cells])
    return ["method", *(TITLES[metric] for metric in metrics)], body


def intervals(summaries: Sequence[Summary], data: str) -> tuple[list[str], list[list[str]]] | None:
    """Return head and rows of the table of bootstrap intervals of a data set, in per cent; None if there are none."""
    here = [one for one in summaries if one.data == data and one.intervals]
    metrics = [metric for metric in ORDER if any(metric in one.intervals for one in here)]
    if not metrics:
        return None
    body = [
        [
            one.method,
            *(
                "{:.1f} to {:.1f}".format(*(100 * end for end in one.intervals[metric]))
                if metric in one.intervals
                else "-"
                for metric in metrics
            ),
        ]
        for one in here
    ]
    return ["method", *(TITLES[metric] for metric in metrics)], body


def markdown(summaries: Sequence[Summary], notes: Sequence[str] = ()) -> str:
    """Return the Markdown tables: means, then ours beside the published numbers where there are any."""
    parts = [*notes]
    table_rows = rows(summaries)
    for data in dict.fromkeys(one.data for one in summaries):
        head, body = overview(summaries, data)
        parts += [f"## {data}", "Mean over classes, per cent.", _pipes(head, body)]
        if found := intervals(summaries, data):
            parts += [_INTERVALS, _pipes(*found)]
        errors = [
            (one.method, name, text) for one in summaries if one.data == data for name, text in one.errors.items()
        ]
        if errors:
            parts.append(_pipes(["method", "class", "error"], [[method, name, text] for method, name, text in errors]))
        beside = [row for row in table_rows if row["data"] == data and (row["published"] is not None or row["others"])]
        if beside:
            parts += ["Beside the published numbers:", _pipes(*_beside(beside))]
    return "\n\n".join(parts) + "\n"


def _beside(table_rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    head = ["method", "metric", "ours", "published", "where", "difference", "independent runs"]
    body = [
        [
            row["method"], TITLES[row["metric"]], _ours(row), _number(row["published"]), row["source"] or "-",
            _number(row["difference"], sign=True), row["others"] or "-",
        ]
        for row in table_rows
    ]  # fmt: skip
    return head, body


def _pipes(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_csv(summaries: Sequence[Summary]) -> str:
    """Return all rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(summaries):
        writer.writerow({key: "" if row[key] is None else row[key] for key in COLUMNS})
    return text.getvalue()


def latex(summaries: Sequence[Summary]) -> str:
    """Return one ``tabular`` per data set."""
    parts = []
    for data in dict.fromkeys(one.data for one in summaries):
        head, body = overview(summaries, data)
        lines = [" & ".join(map(_tex, line)) + r" \\" for line in (head, *body)]
        parts.append(
            "\n".join(
                [
                    f"% {data}, mean over classes, per cent",
                    rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
                    r"\hline",
                    lines[0],
                    r"\hline",
                    *lines[1:],
                    r"\hline",
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _tex(text: str) -> str:
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", text)
    return escaped.replace("±", r"$\pm$")


def comparisons(cells: Sequence[Mapping[str, Any]], summaries: Sequence[Summary], resamples: int) -> list[Comparison]:
    """Return the best method by mean image AUROC against each other one, per data set."""
    result = []
    for data in dict.fromkeys(one.data for one in summaries):
        here = [one for one in summaries if one.data == data and not math.isnan(one.mean("image_auroc"))]
        if len(here) > 1:
            best = max(here, key=lambda one: one.mean("image_auroc")).method
            result += [compare(cells, data, best, one.method, resamples) for one in here if one.method != best]
    return result


def html(
    folder: Path, cells: Sequence[Mapping[str, Any]], summaries: Sequence[Summary], notes: Sequence[str], resamples: int
) -> str:
    """Return the whole page: tables that sort, charts, statistics and pictures, with nothing outside the file."""
    parts = [page.paragraph(note, "note") for note in notes]
    table_rows = rows(summaries)
    for data in dict.fromkeys(one.data for one in summaries):
        here = [one for one in summaries if one.data == data]
        parts.append(page.heading(f"{data}: mean over classes"))
        head, body = overview(summaries, data)
        keyed: list[list[str | float | None]] = [[line[0], *map(_sortable, line[1:])] for line in body]
        for line, one in zip(keyed, here, strict=True):
            line += [one.images_per_s, one.peak_memory_mb, one.backbone, one.trained_on or "-"]
        parts.append(
            page.table(
                [*head, "images/s", "memory, MB", "backbone", "trained on"], keyed, "Per cent; a click on a head sorts."
            )
        )
        if found_intervals := intervals(summaries, data):
            parts.append(page.table(*found_intervals, _INTERVALS))
        beside = [row for row in table_rows if row["data"] == data and (row["published"] is not None or row["others"])]
        if beside:
            parts.append(page.heading(f"{data}: beside the published numbers"))
            parts.append(page.table(*_beside(beside)))
        points = [(one.method, one.images_per_s, 100 * one.mean("image_auroc")) for one in here if one.images_per_s]
        parts.append(page.heading(f"{data}: speed and accuracy"))
        parts.append(scatter(points, "images per second", "mean image AUROC, per cent"))
        for metric in ("image_auroc", "pixel_auroc"):
            if any(metric in values for one in here for values in one.per_class.values()):
                parts.append(page.heading(f"{data}: {TITLES[metric]} per class"))
                parts.append(
                    bars(
                        {
                            one.method: {
                                name: 100 * values[metric] for name, values in one.per_class.items() if metric in values
                            }
                            for one in here
                        }
                    )
                )
        parts += _pictures(folder, data, here)
    found = comparisons(cells, summaries, resamples)
    if found:
        parts.append(page.heading("Is the best method better?"))
        body_rows: list[list[str | float | None]] = [
            [
                one.data,
                one.first,
                one.second,
                100 * one.difference,
                100 * one.low,
                100 * one.high,
                "yes" if one.clear else "cannot be said",
            ]
            for one in found
        ]
        caption = "Difference of mean image AUROC in points, 95 % interval of a paired bootstrap over images."
        parts.append(
            page.table(["data", "first", "second", "difference", "from", "to", "different?"], body_rows, caption)
        )
    return page.page("zsad benchmark", parts)


def _sortable(text: str) -> str | float | None:
    return None if text == "-" else float(text) if re.fullmatch(r"-?\d+\.\d", text) else text


def _pictures(folder: Path, data: str, summaries: Sequence[Summary]) -> list[str]:
    """Best, median and worst map per class of the first method that left pictures."""
    parts: list[str] = []
    for one in summaries:
        mine = sorted((folder / "pictures" / safe_name(one.method) / safe_name(data)).glob("*.jpg"))
        if mine:
            parts.append(page.heading(f"{data}: {one.method}, best, median and worst map per class"))
            with_captions = [(file, file.stem.replace("-s0-", ", ")) for file in mine]
            parts.append(
                page.pictures(page.picture(Image.open(file).convert("RGB"), text) for file, text in with_captions)
            )
    return parts


def disagreement(page_text: str, regenerated: str, tolerance: float) -> str | None:
    """Return where two pages differ by more than the tolerance in a number, or in any other text; None if nowhere."""
    mine, theirs = page_text.splitlines(), regenerated.splitlines()
    if len(mine) != len(theirs):
        return f"{len(mine)} lines against {len(theirs)}"
    number = re.compile(r"-?\d+\.\d")
    for place, (left, right) in enumerate(zip(mine, theirs, strict=True), start=1):
        if number.sub("#", left) != number.sub("#", right):
            return f"line {place}: '{left}' against '{right}'"
        for a, b in zip(number.findall(left), number.findall(right), strict=True):
            if abs(float(a) - float(b)) > tolerance + 1e-9:
                return f"line {place}: {a} against {b} in '{left}'"
    return None


def main(arguments: Sequence[str]) -> int:
    """Run ``zsad report``; return 1 if ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(
        prog="zsad report", description="Make tables and one HTML page from a results folder."
    )
    parser.add_argument("results", type=Path, metavar="DIR")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where report.{md,csv,tex,html} go (default: the results folder)"
    )
    parser.add_argument("--note", action="append", default=[], help="sentence on top of the page; may be repeated")
    parser.add_argument(
        "--resamples", type=int, default=1000, help="draws of the paired comparison (default: %(default)s)"
    )
    parser.add_argument("--check", type=Path, metavar="PAGE", help="compare the Markdown with a committed page")
    parser.add_argument(
        "--tolerance", type=float, default=0.5, help="points by which numbers may differ (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    cells = load(args.results)
    summaries = summarise(cells)
    notes = [*_labels(summaries), *args.note]
    text = markdown(summaries, notes)
    console = Console()
    if args.check is not None:
        problem = disagreement(args.check.read_text(encoding="utf-8"), text, args.tolerance)
        console.print(f"{args.check}: {problem or 'as committed'}", soft_wrap=True, markup=False)
        return 1 if problem else 0
    out = args.out or args.results
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(text, encoding="utf-8")
    (out / "report.csv").write_text(as_csv(summaries), encoding="utf-8")
    (out / "report.tex").write_text(latex(summaries), encoding="utf-8")
    (out / "report.html").write_text(html(args.results, cells, summaries, notes, args.resamples), encoding="utf-8")
    console.print(f"Look at it: {out / 'report.html'}", soft_wrap=True)
    return 0


def _labels(summaries: Sequence[Summary]) -> list[str]:
    """Say plainly what kind of numbers these are."""
    notes = []
    backbones = {one.backbone for one in summaries}
    if "zsad-mini" in backbones:
        notes.append(
            "zsad-mini: a small CLIP trained on synthetic pictures. These numbers show that the machinery works; "
            "they say nothing about real images and do not rank the methods."
        )
    if any(name.endswith("/random") for name in backbones):
        notes.append("Random weights: these numbers have no meaning; they show that the pipeline runs.")
    return notes
