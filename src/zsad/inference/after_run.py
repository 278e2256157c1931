"""What can be made only when a whole run is there: its page and table, places within it, false discoveries."""

from collections.abc import Iterable
from pathlib import Path

from zsad.decision.conformal import discoveries_needed, false_discoveries
from zsad.decision.relative import relative
from zsad.images.cells import write_cells
from zsad.inference.index_page import INDEX, write_index
from zsad.inference.parquet import PARQUET, write_parquet
from zsad.inference.rows import Row
from zsad.inference.writer import read_rows

RELATIVE, FDR = "relative.csv", "fdr.csv"


def finish(folder: Path, page: bool | None = None, parquet: bool | None = None) -> None:
    """Write what the rows of a run are made into: ``index.html`` and ``scores.parquet``.

    Args:
        folder: Of the run.
        page: Whether there is a page; None writes it again if there is one.
        parquet: Whether there is a Parquet file; None writes it again if there is one.

    Raises:
        ValueError: pyarrow is not installed.
    """
    if (folder / INDEX).exists() if page is None else page:
        write_index(folder)
    if (folder / PARQUET).exists() if parquet is None else parquet:
        write_parquet(folder, read_rows(folder))


def write_relative(folder: Path, rows: Iterable[Row]) -> Path:
    """Write rank and robust z of each scored image of a run; both change with the folder and are no labels."""
    scored = [row for row in rows if row.score is not None]
    places = relative([row.score for row in scored if row.score is not None])
    path = folder / RELATIVE
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        write_cells(file, [("path", "score", "rank", "robust_z", "kind")])
        for row, rank, z in zip(scored, places.rank.tolist(), places.robust_z.tolist(), strict=True):
            write_cells(file, [(row.path, row.score, rank, None if z != z else float(f"{z:.6g}"), "transductive")])
    return path


def write_fdr(folder: Path, rows: Iterable[Row], q: float, n: int) -> tuple[Path, int, int]:
    """Write which images of a run alarm so that at most a share ``q`` of the alarms is false, on average.

    Args:
        folder: Of the run.
        rows: Its rows, with p-values of one calibration.
        q: Share of false ones among the alarms.
        n: Number of calibration images.

    Returns:
        The file, the number of alarms, and how many images must have the smallest p-value before any can alarm.
    """
    judged = [row for row in rows if row.p_value is not None]
    alarms = false_discoveries([row.p_value for row in judged if row.p_value is not None], q)
    path = folder / FDR
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        write_cells(file, [("path", "score", "p_value", "label_fdr")])
        for row, alarm in zip(judged, alarms.tolist(), strict=True):
            write_cells(file, [(row.path, row.score, row.p_value, int(alarm))])
    return path, int(alarms.sum()), discoveries_needed(n, len(judged), q)
