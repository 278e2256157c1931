"""Tables of a benchmark: Markdown, CSV and LaTeX, of means, classes and kinds of defects."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zsad.benchmark.published import lookup
from zsad.benchmark.results import IMAGE, ORDER, Summary
from zsad.clip.embedded import EMBEDDED
from zsad.clip.loading import RANDOM
from zsad.images.cells import write_cells
from zsad.methods import METHODS

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
Table = tuple[list[str], list[list[str]]]
"""Head and rows."""
INTERVALS = "95 % intervals of these means, by a bootstrap over the images of each class."
COLUMNS = (
    "data", "class", "defect", "normal", "anomalous", "method", "metric", "ours", "std", "seeds", "low", "high",
    "published", "source", "difference", "others",
)  # fmt: skip
PER_CLASS = "Per class, per cent."
PER_DEFECT = "Image metrics per kind of defect, per cent: its images against the normal images of the class."


def rows(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Return one row per data set, method and metric, in per cent: ours, published, difference, independent runs.

    A method of the registry without a result stands with what is published for it and no number of ours.
    """
    result = []
    for data in dict.fromkeys(one.data for one in summaries):
        here = {one.method: one for one in summaries if one.data == data}
        metrics = [metric for metric in ORDER if any(metric in one.values for one in here.values())]
        # numbers of the synthetic or of random backbones say nothing about real images: nothing published beside them
        real = {label for label, one in here.items() if not one.backbone.endswith((*EMBEDDED, f"/{RANDOM}"))}
        absent = [name for name in METHODS if real and name not in {one.name for one in here.values()}]
        for label in [*here, *absent]:
            one = here.get(label)
            for metric in metrics:
                name, beside = (one.name, label in real) if one else (label, True)
                printed = lookup(data, name, metric) if beside else []
                others = lookup(data, name, metric, ("log", "rerun")) if beside else []
                ours = 100 * one.mean(metric) if one else math.nan
                std = one.std(metric) if one else None
                if one is None and not printed and not others:
                    continue
                result.append(
                    {
                        "data": data,
                        "normal": None if one is None else sum(pair[0] for pair in one.counts.values()),
                        "anomalous": None if one is None else sum(pair[1] for pair in one.counts.values()),
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


def transductive(name: str) -> bool:
    """Whether a method scores all images together; of another package's method that is not here, nothing is known."""
    return name in METHODS and METHODS[name].transductive


def _number(value: float | None, sign: bool = False) -> str:
    return "-" if value is None else f"{value:+.1f}" if sign else f"{value:.1f}"


def _ours(row: Mapping[str, Any]) -> str:
    if row["ours"] is None:
        return NOT_RUN if not row["seeds"] else "-"
    return _number(row["ours"]) + ("" if row["std"] is None else f" ± {row['std']:.1f}")


def overview(summaries: Sequence[Summary], data: str) -> Table:
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
        seen = " (transductive)" if transductive(one.name) else ""  # all images, where others see one
        body.append([one.method + seen + failed, *cells])
    return ["method", *(TITLES[metric] for metric in metrics)], body


def intervals(summaries: Sequence[Summary], data: str) -> Table | None:
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


def class_table(summaries: Sequence[Summary], data: str) -> Table:
    """Return head and rows of the table of classes: how many images, then a line per method."""
    here = [one for one in summaries if one.data == data]
    metrics = [metric for metric in ORDER if any(metric in one.values for one in here)]
    body = [
        [name, *map(str, one.counts[name]), one.method, *(_per_cent(one.per_class[name].get(m)) for m in metrics)]
        for name in sorted({name for one in here for name in one.per_class})
        for one in here
        if name in one.per_class
    ]
    return ["class", "normal", "anomalous", "method", *(TITLES[metric] for metric in metrics)], body


def defect_table(summaries: Sequence[Summary], data: str) -> Table | None:
    """Return head and rows of the table of kinds of defects; None if no cell knows them."""
    here = [one for one in summaries if one.data == data]
    body = [
        [class_name, defect, *map(str, found.counts), one.method, *(_per_cent(found.values.get(m)) for m in IMAGE)]
        for class_name, defect in sorted({key for one in here for key in one.per_defect})
        for one in here
        if (found := one.per_defect.get((class_name, defect)))
    ]
    head = ["class", "defect", "normal", "anomalous", "method", *(TITLES[metric] for metric in IMAGE)]
    return (head, body) if body else None


def _per_cent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def markdown(summaries: Sequence[Summary], notes: Sequence[str] = (), details: bool = True) -> str:
    """Return the Markdown tables: means, ours beside the published numbers where there are any, classes, defects.

    Args:
        summaries: What to show.
        notes: Sentences on top.
        details: Whether classes and kinds of defects are shown.
    """
    parts = [*notes]
    table_rows = rows(summaries)
    for data in dict.fromkeys(one.data for one in summaries):
        head, body = overview(summaries, data)
        parts += [f"## {data}", "Mean over classes, per cent.", _pipes(head, body)]
        if found := intervals(summaries, data):
            parts += [INTERVALS, _pipes(*found)]
        errors = [
            (one.method, name, text) for one in summaries if one.data == data for name, text in one.errors.items()
        ]
        if errors:
            parts.append(_pipes(["method", "class", "error"], [[method, name, text] for method, name, text in errors]))
        beside = [row for row in table_rows if row["data"] == data and (row["published"] is not None or row["others"])]
        if beside:
            parts += ["Beside the published numbers:", _pipes(*beside_table(beside))]
        if details:
            parts += [PER_CLASS, _pipes(*class_table(summaries, data))]
            if by_defect := defect_table(summaries, data):
                parts += [PER_DEFECT, _pipes(*by_defect)]
    return "\n\n".join(parts) + "\n"


def beside_table(table_rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return head and rows of ours beside what is published."""
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
    """Return all rows as CSV: means, then classes, then kinds of defects; what does not apply is empty."""
    text = io.StringIO()
    found = [*rows(summaries), *_detail_rows(summaries)]
    write_cells(text, [COLUMNS, *([row.get(name) for name in COLUMNS] for row in found)])
    return text.getvalue()


def _detail_rows(summaries: Sequence[Summary]) -> Iterator[dict[str, Any]]:
    for one in summaries:
        places = [(name, "", one.counts[name], values) for name, values in one.per_class.items()]
        places += [(*key, found.counts, found.values) for key, found in one.per_defect.items()]
        for class_name, defect, (normal, anomalous), values in places:
            for metric in ORDER:
                if metric in values:
                    yield {
                        "data": one.data, "class": class_name, "defect": defect, "normal": normal,
                        "anomalous": anomalous, "method": one.method, "metric": metric, "ours": 100 * values[metric],
                        "seeds": one.seeds,
                    }  # fmt: skip


def latex(summaries: Sequence[Summary]) -> str:
    """Return one ``tabular`` of means per data set, then one of classes and one of kinds of defects."""
    parts = []
    for data in dict.fromkeys(one.data for one in summaries):
        parts.append(_tabular(f"{data}, mean over classes, per cent", *overview(summaries, data)))
        parts.append(_tabular(f"{data}, {PER_CLASS.lower()}", *class_table(summaries, data), texts=4))
        if by_defect := defect_table(summaries, data):
            parts.append(_tabular(f"{data}, {PER_DEFECT.lower()}", *by_defect, texts=5))
    return "\n\n".join(parts) + "\n"


def _tabular(title: str, head: Sequence[str], body: Sequence[Sequence[str]], texts: int = 1) -> str:
    lines = [" & ".join(map(_tex, line)) + r" \\" for line in (head, *body)]
    columns = "l" * texts + "r" * (len(head) - texts)
    top = [f"% {title}", rf"\begin{{tabular}}{{{columns}}}", r"\hline", lines[0], r"\hline"]
    return "\n".join([*top, *lines[1:], r"\hline", r"\end{tabular}"])


def _tex(text: str) -> str:
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", text)
    return escaped.replace("±", r"$\pm$")
