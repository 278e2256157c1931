"""``index.html`` beside the rows of a run: what was found, for people, readable without a server."""

import heapq
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from zsad.images.fragments import split
from zsad.inference.rows import Row
from zsad.inference.settings import read_settings, replace
from zsad.inference.writer import read_rows
from zsad.report.charts import COLOURS, histogram
from zsad.report.gallery import Shown, gallery
from zsad.report.page import paragraph

INDEX = "index.html"
MOST = 100_000
"""Rows that a page holds: the highest scores, and before them what has an error."""

_AREAS = 20


def write_index(folder: Path, most: int = MOST) -> Path:
    """Write the page of a run's folder from its rows and settings, whole or not at all, and return its path.

    Args:
        folder: Of ``zsad score``.
        most: Rows that it holds.

    Raises:
        SettingsError: The folder is of another format.
    """
    settings = read_settings(folder) or {}
    of_page = settings.get("page") or {}
    base = str(settings.get("base") or os.getcwd())
    kept, total, scores = _kept(read_rows(folder), most)
    classes = sorted(scores) or [""]
    thresholds = _thresholds(settings, of_page, classes)
    numbers = {name: number for number, name in enumerate(classes)}
    errors = sum(row.error is not None for row in kept)
    said = f"{total} images: {_method(settings)}."
    if errors:
        said += f" {errors} could not be scored."
    if len(kept) < total:
        said += (
            f" This page holds {len(kept)} of them, those with errors and the highest scores; all are in scores.csv."
        )
    above = [paragraph(said)]
    shown_classes = dict(list(scores.items())[: len(COLOURS)])
    named = {name or "images": values for name, values in shown_classes.items()}
    above.append(histogram(named, "score", {name or "images": value for name, value in thresholds.items()}))
    page = gallery(
        f"Scores of {folder.resolve().name}",
        above,
        [_shown(row, folder, base, numbers) for row in kept],
        classes,
        of_page.get("mm_per_pixel"),
    )
    replace(folder / INDEX, page)
    return folder / INDEX


def _kept(rows: Iterable[Row], most: int) -> tuple[list[Row], int, dict[str, list[float]]]:
    """The rows for the page, how many there are, and the scores of each class."""
    best: list[tuple[float, int, Row]] = []
    scores: dict[str, list[float]] = {}
    total = 0
    for total, row in enumerate(rows, start=1):
        scores.setdefault(row.class_name or "", [])
        if row.score is not None:
            scores[row.class_name or ""].append(row.score)
        item = (float("inf") if row.score is None else row.score, -total, row)
        (heapq.heappush if len(best) < most else heapq.heappushpop)(best, item)
    return [row for *_, row in sorted(best, key=lambda item: item[:2], reverse=True)], total, scores


def _thresholds(settings: Mapping[str, Any], of_page: Mapping[str, Any], classes: Iterable[str]) -> Mapping[str, float]:
    if (threshold := settings.get("threshold")) is not None:
        return dict.fromkeys(classes, float(threshold))
    found = of_page.get("thresholds") or {}
    wanted = {name: name if name in found else "" for name in classes}  # "": of a card for all classes
    return {name: float(found[key]) for name, key in wanted.items() if key in found}


def _method(settings: Mapping[str, Any]) -> str:
    names = [str(settings[name]) for name in ("method", "backbone") if settings.get(name)]
    card = (settings.get("calibration") or {}).get("digest")
    return ", ".join([*names, *([f"calibration card {card}"] if card else [])]) or "scores"


def _shown(row: Row, folder: Path, base: str, numbers: Mapping[str, int]) -> Shown:
    areas = sorted((int(one.get("area", 0)) for one in row.regions or []), reverse=True)[:_AREAS]
    return Shown(
        row.path, row.score, row.label, numbers[row.class_name or ""], row.p_value,
        None if row.overlay is None else _quoted(row.overlay), _link(row.path, folder, base), row.error, row.warning,
        row.n_regions, tuple(areas),
    )  # fmt: skip


def _link(path: str, folder: Path, base: str) -> str:
    """The address of a picture from the page: relative, so that both may move or be mounted elsewhere together."""
    whole, _ = split(os.path.join(base, path))  # without the page or part of a file that is meant
    try:
        return _quoted(PurePath(os.path.relpath(whole, os.path.abspath(folder))).as_posix())
    except ValueError:  # another drive
        return Path(os.path.abspath(whole)).as_uri()


def _quoted(path: str) -> str:
    return quote(os.fsencode(path))
