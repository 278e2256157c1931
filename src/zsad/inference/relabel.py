"""Other labels for the rows of a run, without scoring an image again."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from zsad.images.cells import write_cells
from zsad.inference import settings
from zsad.inference.lock import lock_folder, naming_disk
from zsad.inference.result import label_of
from zsad.inference.rows import COLUMNS, Row

MARK = "relabel.part"
"""File that lies in a folder while its rows get other labels."""


def refuse_half_done(folder: Path) -> None:
    """Raise if giving other labels was interrupted.

    Raises:
        SettingsError: Some rows may have the old labels, some the new ones.
    """
    if (folder / MARK).exists():
        raise settings.SettingsError(
            f"Relabelling of '{folder}' was interrupted. Run 'zsad relabel {folder}' again with the same values first."
        )


def by_threshold(threshold: float) -> Callable[[Row], Row]:
    """Return what gives a row the label of a threshold: 1 from this score on; what a calibration said is dropped.

    Raises:
        ValueError: The threshold is not finite.
    """
    if not math.isfinite(threshold):
        raise ValueError(f"A threshold must be a finite number, got {threshold}.")

    def decide(row: Row) -> Row:
        label = None if row.score is None else label_of(row.score, threshold)
        return changed(row, label=label, p_value=None, p_upper=None, alarm_rate=None)

    return decide


def relabel(folder: Path, decide: Callable[[Row], Row], new: Mapping[str, Any]) -> tuple[int, int]:
    """Give every row of a run's folder what ``decide`` makes of it; scores stay.

    Killed in between, the folder refuses to be continued until this has been done again.

    Args:
        folder: Of ``zsad score``.
        decide: Row -> row.
        new: Settings that take the place of the earlier ones, such as ``{"threshold": 0.5}``.

    Returns:
        The number of rows, and of those whose label is another one now.

    Raises:
        FileNotFoundError: There is no such folder, or no rows are in it.
        SettingsError: The rows are of another format, or their settings are damaged.
        FolderInUseError: A run is writing there.
    """
    if not (folder / "scores.jsonl").is_file():
        raise FileNotFoundError(f"'{folder}' holds no rows: there is no scores.jsonl in it.")
    lock = lock_folder(folder)
    try:
        earlier = settings.read_settings(folder)
        if earlier is None:
            raise FileNotFoundError(f"'{folder}' holds no rows of a run.")
        rows = other = 0
        part, table = folder / "scores.jsonl.part", folder / "scores.csv.part"
        with (
            naming_disk(part),
            part.open("w", encoding="utf-8", newline="\n") as lines,
            table.open("w", encoding="utf-8", errors="surrogateescape", newline="") as cells,
        ):
            write_cells(cells, [COLUMNS])
            for row in all_rows(folder / "scores.jsonl"):
                decided = decide(row)
                rows += 1
                other += decided.label != row.label
                lines.write(decided.line())
                write_cells(cells, [decided.cells()])
            lines.flush()
            os.fsync(lines.fileno())
        settings.replace(folder / MARK, json.dumps(dict(new)))
        part.replace(folder / "scores.jsonl")
        table.replace(folder / "scores.csv")
        settings.write_settings(folder, {**earlier, **new})
        (folder / MARK).unlink()
    finally:
        lock.release()
    return rows, other


def all_rows(path: Path) -> Iterable[Row]:
    """Yield the rows of a JSON-lines file.

    Raises:
        SettingsError: A line is no row.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield Row.read(line)
            except (ValueError, TypeError) as error:
                raise settings.SettingsError(
                    f"Line {number} of '{path}' is no row ({error}): run the same 'zsad score' again, which completes "
                    f"it, and relabel then."
                ) from error
