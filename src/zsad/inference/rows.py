"""One row per image in a CSV and a JSON-lines file, written as it goes and continued after an interruption."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from zsad.inference import Result

_COLUMNS = ("path", "score", "label", "error")


class SettingsError(ValueError):
    """A folder holds the rows of a run with other settings."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of one image.

    Args:
        path: Of the image, as it was found.
        score: None if the image could not be read.
        label: 1 or 0; None without a threshold or a score.
        error: What is wrong with the file; None if all is well.
        explanation: Descriptors and their cosines, in the JSON lines only; None unless asked for.
    """

    path: str
    score: float | None
    label: int | None
    error: str | None
    explanation: list[list[str | float]] | None = None

    @classmethod
    def of(cls, result: Result) -> Self:
        """Return the row of a result, with the score rounded to the seven digits that single precision holds."""
        score = None if result.error is not None else float(f"{result.pred_score:.7g}")
        reasons: list[list[str | float]] = [[text, round(cosine, 6)] for text, cosine in result.explanation]
        return cls(str(result.image_path), score, result.pred_label, result.error, reasons or None)


class RowWriter:
    """Write ``scores.jsonl`` and ``scores.csv`` in a folder; start again where an earlier run stopped.

    The JSON lines are the record. On opening, a line that was cut off is dropped, with the lines of a batch that was
    not finished: the batches that follow are then those of an undisturbed run, to the last digit. The CSV file is
    written anew from the lines that stay.

    Args:
        folder: Made if it does not exist.
        settings: What the rows depend on, as JSON values; kept in ``settings.json`` and compared.
        batch_size: Rows per batch.
        fresh: Forget an earlier run in the folder.

    Raises:
        SettingsError: The earlier run had other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], batch_size: int, fresh: bool = False) -> None:
        self.folder = folder
        self.jsonl, self.csv, notes = folder / "scores.jsonl", folder / "scores.csv", folder / "settings.json"
        folder.mkdir(parents=True, exist_ok=True)
        if fresh or not notes.exists():
            self.jsonl.unlink(missing_ok=True)
            _replace(notes, json.dumps(settings, indent=2) + "\n")
        else:
            _compare(notes, settings)
        self.jsonl.touch()
        self._cut(batch_size)
        self._done = np.sort(np.fromiter((_digest(row.path) for row in self.rows()), dtype=np.uint64))
        self._rebuild_csv()
        self._lines = self.jsonl.open("a", encoding="utf-8", newline="\n")
        self._table = self.csv.open("a", encoding="utf-8", errors="surrogateescape", newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._table.close()

    def __len__(self) -> int:
        """Return the number of rows that the earlier run left."""
        return len(self._done)

    def has(self, path: str) -> bool:
        """Return whether the earlier run left a row of that path (compared by 64-bit digests, 8 bytes per image)."""
        digest = _digest(path)
        place = int(np.searchsorted(self._done, digest))
        return place < len(self._done) and bool(self._done[place] == digest)

    def write(self, rows: Iterable[Row]) -> None:
        """Append the rows of a batch to both files, on the disk when this returns."""
        rows = list(rows)
        self._lines.write("".join(json.dumps(_shown(row)) + "\n" for row in rows))
        self._lines.flush()
        os.fsync(self._lines.fileno())
        csv.writer(self._table, lineterminator="\n").writerows(map(_cells, rows))
        self._table.flush()

    def rows(self) -> Iterator[Row]:
        """Yield all rows that are on the disk."""
        with self.jsonl.open(encoding="utf-8") as file:
            for line in file:
                yield Row(**json.loads(line))

    def _cut(self, batch_size: int) -> None:
        """Cut the lines off after the last complete batch."""
        good = end = rows = 0
        with self.jsonl.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or not _is_row(line):
                    break
                end += len(line)
                rows += 1
                if rows % batch_size == 0:
                    good = end
        os.truncate(self.jsonl, good)

    def _rebuild_csv(self) -> None:
        part = self.csv.with_suffix(".part")
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(map(_cells, self.rows()))
        part.replace(self.csv)


def _shown(row: Row) -> dict[str, Any]:
    """The row as JSON has it: an explanation only where there is one."""
    return {name: value for name, value in asdict(row).items() if name != "explanation" or value is not None}


def _cells(row: Row) -> list[str]:
    return ["" if value is None else str(value) for value in (row.path, row.score, row.label, row.error)]


def _is_row(line: bytes) -> bool:
    try:
        return set(json.loads(line)) - {"explanation"} == set(_COLUMNS)
    except (ValueError, TypeError):
        return False


def _digest(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little")


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _compare(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        earlier = {}
    now = json.loads(json.dumps(settings))
    changed = sorted(name for name in {*earlier, *now} if earlier.get(name) != now.get(name))
    if changed:
        differences = "; ".join(f"{name}: {earlier.get(name)!r} then, {now.get(name)!r} now" for name in changed)
        raise SettingsError(
            f"'{path.parent}' holds the rows of a run with other settings ({differences}). "
            f"Use another folder, or --fresh to start over."
        )
