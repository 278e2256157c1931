"""Rows in a CSV and a JSON-lines file, written as they come and continued after an interruption."""

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace as changed
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from zsad.images.cells import write_cells
from zsad.images.fragments import split
from zsad.inference import relabel, settings
from zsad.inference.files import FileFacts, FileList, contains, digest, identity, sha256
from zsad.inference.lock import lock_folder, naming_disk
from zsad.inference.rows import COLUMNS, Row

if TYPE_CHECKING:
    from typing_extensions import Self

GONE = "The file is gone since it was scored."
"""Warning of a row whose file is no longer there."""


class RowWriter:
    """Write ``scores.jsonl`` and ``scores.csv`` in a folder; start again where an earlier run stopped.

    The JSON lines are the record. On opening, a line that was cut off is dropped, with the lines of a batch that was
    not finished: the batches that follow are then those of an undisturbed run, to the last digit. A line that stands
    there twice counts once. The rows of files that have changed are dropped, so that they are scored again; the rows
    of files that are gone carry a warning. The CSV file is written anew from the lines that stay.

    Args:
        folder: Made if it does not exist.
        settings: What the rows depend on, as JSON values; kept in ``settings.json`` and compared.
        batch_size: Rows per batch.
        fresh: Forget an earlier run in the folder.
        files: What is to be scored now; without it rows are taken as they are.
        prune: Drop rows of files that are gone or not among ``files``.
        content: Whether the digest of a file's content, not its time, says that it has changed.

    Raises:
        SettingsError: The earlier run had other settings, or was of another version.
        FolderInUseError: Another run is writing there.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        batch_size: int,
        fresh: bool = False,
        files: FileList | None = None,
        prune: bool = False,
        content: bool = False,
    ) -> None:
        self.folder = folder
        self.jsonl, self.csv = folder / "scores.jsonl", folder / "scores.csv"
        self.repeated = self.again = self.gone = self.outside = self.pruned = 0
        """What opening found: lines that stood twice, files that changed, are gone, are not asked for; rows dropped."""
        self._files, self._prune, self._content = files, prune, content
        with naming_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(folder)
        try:
            self.settings = self._begin(settings, fresh)
            self._continue(batch_size)
            self._lines = self.jsonl.open("a", encoding="utf-8", newline="\n")
            self._table = self.csv.open("a", encoding="utf-8", errors="surrogateescape", newline="")
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with naming_disk(self.csv):
                self._lines.close()
                self._table.close()
        finally:
            self._lock.release()

    def __len__(self) -> int:
        """Return the number of rows that the earlier run left."""
        return len(self._done)

    def has(self, real: str) -> bool:
        """Return whether the earlier run left a row of that identity (64-bit digests, 8 bytes per image)."""
        return contains(self._done, digest(real))

    def identity(self, row: Row) -> str:
        """Return the identity of a row's image."""
        return identity(row.path, self.settings["base"])

    def shown(self, path: str) -> str:
        """Return a path as rows of this folder show it: as given, if the run began in the current folder."""
        return path if os.getcwd() == self.settings["base"] else os.path.abspath(path)

    def write(self, rows: Iterable[Row]) -> None:
        """Append the rows of a batch to both files, on the disk when this returns."""
        rows = list(rows)
        text = "".join(row.line() for row in rows)
        with naming_disk(self.jsonl):
            self._lines.write(text)
            self._lines.flush()
            os.fsync(self._lines.fileno())
        with naming_disk(self.csv):
            write_cells(self._table, (row.cells() for row in rows))
            self._table.flush()

    def note(self, **found: Any) -> None:
        """Keep what a run found out by itself, such as the scale of its heat maps, among the settings."""
        self.settings |= found
        settings.write_settings(self.folder, self.settings)

    def rows(self) -> Iterator[Row]:
        """Yield all rows that are on the disk."""
        return read_rows(self.folder)

    def _begin(self, now: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
        earlier = None if fresh else settings.read_settings(self.folder)
        if earlier is None:
            for path in (self.jsonl, self.csv, self.folder / relabel.MARK):
                path.unlink(missing_ok=True)
            earlier = {"base": os.getcwd(), **now}
            settings.write_settings(self.folder, earlier)
        relabel.refuse_half_done(self.folder)
        settings.compare(self.folder, earlier, now)
        self.jsonl.touch()
        return earlier

    def _continue(self, batch_size: int) -> None:
        """Write both files anew, with the rows that stay."""
        parts = self.jsonl.with_suffix(".jsonl.part"), self.csv.with_suffix(".csv.part")
        done, met = array("Q"), set[int]()
        batch: list[tuple[int, bytes, Row]] = []
        with (
            naming_disk(self.jsonl),
            parts[0].open("wb") as lines,
            parts[1].open("w", encoding="utf-8", errors="surrogateescape", newline="") as table,
        ):

            def keep(rows: Iterable[tuple[int, bytes, Row]]) -> None:
                for value, line, row in rows:
                    done.append(value)
                    lines.write(line)
                    write_cells(table, [row.cells()])

            write_cells(table, [COLUMNS])
            for line, row in _sound(self.jsonl):
                value = digest(self.identity(row))
                if value in met:
                    self.repeated += 1
                    continue
                met.add(value)
                if (kept := self._judged(row)) is not None:
                    batch.append((value, line if kept == row else kept.line().encode(), kept))
                if len(met) % batch_size == 0:
                    keep(batch)
                    batch.clear()
            keep(batch if self._is_all({*done, *(value for value, _, _ in batch)}) else filter(self._is_lost, batch))
            lines.flush()
            os.fsync(lines.fileno())
        parts[0].replace(self.jsonl)
        parts[1].replace(self.csv)
        self._done = np.sort(np.frombuffer(done, dtype=np.uint64)) if done else np.empty(0, np.uint64)

    def _is_all(self, done: set[int]) -> bool:
        """Whether nothing is left to do; the last batch was then a short one, not an unfinished one."""
        return self._files is not None and done.issuperset(map(int, self._files.digests))

    def _is_lost(self, kept: tuple[int, bytes, Row]) -> bool:
        """Whether a row would not come back if it were dropped with its unfinished batch."""
        return self._files is not None and not contains(self._files.digests, kept[0])

    def _judged(self, row: Row) -> Row | None:
        """Return the row as it stays; None if it does not."""
        if self._files is None:
            return row
        real = self.identity(row)
        facts = FileFacts.of(real)
        if real in self._files:
            if facts is None:
                return row if row.bytes is None else self._marked(row)
            if row.bytes is not None and self._same(row, facts, real):
                row = changed(row, sha256=sha256(split(real)[0])) if self._content and row.sha256 is None else row
                return self._unmarked(row)
            self.again += 1
            return None
        if row.bytes is None:  # never opened: a folder that could not be listed, a file that was away
            return None
        self.gone += facts is None
        self.outside += facts is not None
        if self._prune:
            self.pruned += 1
            return None
        return self._marked(row) if facts is None else self._unmarked(row)

    def _same(self, row: Row, facts: FileFacts, real: str) -> bool:
        if row.bytes != facts.bytes:
            return False
        if self._content and row.sha256 is not None:
            return sha256(split(real)[0]) == row.sha256
        return row.mtime == facts.mtime

    @staticmethod
    def _marked(row: Row) -> Row:
        if row.warning is not None and row.warning.endswith(GONE):
            return row
        return changed(row, warning=GONE if row.warning is None else f"{row.warning} {GONE}")

    @staticmethod
    def _unmarked(row: Row) -> Row:
        if row.warning is None or not row.warning.endswith(GONE):
            return row
        return changed(row, warning=row.warning.removesuffix(GONE).rstrip() or None)


def read_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of a run's folder, in the order in which they were computed."""
    for _, row in _sound(folder / "scores.jsonl"):
        yield row


def _sound(path: Path) -> Iterator[tuple[bytes, Row]]:
    """Yield the lines up to the first that was cut off or damaged, with what they say."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                row = Row.read(line.decode())
            except (ValueError, TypeError):
                return
            yield line, row
