"""What ``zsad report`` writes: tables and one page of a results folder."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsad.benchmark.details import Curves, image_curves
from zsad.benchmark.report_page import html
from zsad.benchmark.results import Comparison, Summary, compare, load, summarise
from zsad.benchmark.tables import PER_CLASS, as_csv, latex, markdown, transductive
from zsad.clip.embedded import EMBEDDED
from zsad.images.cells import write_cells
from zsad.methods.base import SCORES_DEPEND


def write_report(
    results: Path,
    out: Path | None = None,
    notes: Sequence[str] = (),
    resamples: int = 1000,
    curves: bool = False,
) -> Path:
    """Write ``report.md``, ``.csv``, ``.tex`` and ``.html``, and return the page's path.

    Args:
        results: A results folder of ``zsad benchmark``.
        out: Where the files go; the results folder by default.
        notes: Sentences on top of the page.
        resamples: Draws of the paired comparison.
        curves: Whether the page shows ROC and precision-recall curves of the image scores; their points go to
            ``report_curves.csv``.

    Raises:
        FileNotFoundError: If there are no results.
    """
    cells = load(results)
    summaries = summarise(cells)
    out = out or results
    out.mkdir(parents=True, exist_ok=True)
    notes = [*labels(summaries), *notes]
    drawn = image_curves(cells) if curves else {}
    if curves:
        _write_curves(out / "report_curves.csv", drawn)
    (out / "report.md").write_text(markdown(summaries, notes), encoding="utf-8")
    (out / "report.csv").write_text(as_csv(summaries), encoding="utf-8")
    (out / "report.tex").write_text(latex(summaries), encoding="utf-8")
    found = comparisons(cells, summaries, resamples)
    (out / "report.html").write_text(html(results, summaries, notes, found, drawn), encoding="utf-8")
    return out / "report.html"


def _write_curves(path: Path, curves: Mapping[str, Curves]) -> None:
    rows: list[Sequence[str | float]] = [("data", "class", "curve", "method", "x", "y", "threshold")]
    for data, by_class in curves.items():
        for (class_name, kind), by_method in by_class.items():
            for method, curve in by_method.items():
                points = zip(*curve.to_dict().values(), strict=True)
                rows += [(data, class_name, kind, method, *point) for point in points]
    with path.open("w", newline="", encoding="utf-8") as file:
        write_cells(file, rows)


def check_page(results: Path, page: Path, notes: Sequence[str] = (), tolerance: float = 0.5) -> str | None:
    """Return where the Markdown of a results folder differs from a committed page, None if nowhere.

    A page without the tables of classes is compared with the means only.

    Args:
        results: A results folder.
        page: The committed page.
        notes: Sentences on top of it.
        tolerance: Points by which numbers may differ.
    """
    summaries, committed = summarise(load(results)), page.read_text(encoding="utf-8")
    text = markdown(summaries, [*labels(summaries), *notes], details=PER_CLASS in committed)
    return disagreement(committed, text, tolerance)


def comparisons(cells: Sequence[Mapping[str, Any]], summaries: Sequence[Summary], resamples: int) -> list[Comparison]:
    """Return the best method by mean image AUROC against each other one, per data set."""
    result = []
    for data in dict.fromkeys(one.data for one in summaries):
        here = [one for one in summaries if one.data == data and not math.isnan(one.mean("image_auroc"))]
        if len(here) > 1:
            best = max(here, key=lambda one: one.mean("image_auroc")).method
            result += [compare(cells, data, best, one.method, resamples) for one in here if one.method != best]
    return result


def compare_methods(results: Path, first: str, second: str, resamples: int = 1000) -> list[Comparison]:
    """Return the paired comparison of two methods on every data set that both were run on.

    Args:
        results: A results folder.
        first: Label of a method, as the tables show it.
        second: Label of another.
        resamples: Number of draws.

    Raises:
        ValueError: A label is not in the results, or the two have no data set in common.
    """
    cells = load(results)
    of_method = {
        label: {cell["data"]["label"] for cell in cells if cell["method"]["label"] == label}
        for label in dict.fromkeys(cell["method"]["label"] for cell in cells)
    }
    for label in (first, second):
        if label not in of_method:
            lower = {one.lower(): one for one in of_method}  # class names are typed as well
            near = lower[difflib.get_close_matches(label.lower(), lower, 1, 0)[0]]
            raise ValueError(f"No method '{label}' below '{results}'; nearest: '{near}', all: {', '.join(of_method)}.")
    common = sorted(of_method[first] & of_method[second])
    if not common:
        raise ValueError(f"'{first}' and '{second}' have no data set in common below '{results}'.")
    return [compare(cells, data, first, second, resamples) for data in common]


def disagreement(page_text: str, regenerated: str, tolerance: float) -> str | None:
    """Return where two pages differ by more than the tolerance in a number, or in any other text; None if nowhere.

    A line that says ``(±1.5)``, as a row's label may, has that tolerance in place of a smaller one.
    """
    mine, theirs = page_text.splitlines(), regenerated.splitlines()
    if len(mine) != len(theirs):
        return f"{len(mine)} lines against {len(theirs)}"
    number = re.compile(r"-?\d+\.\d")
    for place, (left, right) in enumerate(zip(mine, theirs, strict=True), start=1):
        if number.sub("#", left) != number.sub("#", right):
            return f"line {place}: '{left}' against '{right}'"
        stated = re.search(r"\(±(\d+(?:\.\d+)?)\)", left)
        allowed = max(tolerance, float(stated[1])) if stated else tolerance
        for a, b in zip(number.findall(left), number.findall(right), strict=True):
            if abs(float(a) - float(b)) > allowed + 1e-9:
                return f"line {place}: {a} against {b} in '{left}'"
    return None


def labels(summaries: Sequence[Summary]) -> list[str]:
    """Say plainly what kind of numbers these are."""
    notes = []
    backbones = {one.backbone for one in summaries}
    for mini in EMBEDDED.keys() & backbones:
        notes.append(
            f"{mini}: a small CLIP trained on synthetic pictures. These numbers show that the machinery works; "
            "they say nothing about real images and do not rank the methods."
        )
    if all_at_once := sorted({one.method for one in summaries if transductive(one.name)}):
        notes.append(
            f"Transductive: {', '.join(all_at_once)}. {SCORES_DEPEND} The other methods see one image at a time."
        )
    if any(name.endswith("/random") for name in backbones):
        notes.append("Random weights: these numbers have no meaning; they show that the pipeline runs.")
    return notes
