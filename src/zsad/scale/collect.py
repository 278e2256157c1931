"""``zsad collect``: the rows of a job as the files that a run on one machine writes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zsad.images.cells import write_cells
from zsad.inference.after_run import finish
from zsad.inference.lock import lock_folder, naming_disk
from zsad.inference.parquet import PARQUET, require_parquet, rows_of
from zsad.inference.rows import COLUMNS, Row
from zsad.inference.settings import SettingsError, compare, read_settings, write_settings
from zsad.scale.places import Place
from zsad.scale.worker import ID

SCORES = "scores"
"""Folder of a job's rows."""

_GROUP = 100_000  # rows in memory


def collect(output: str | Path, into: str | Path | None = None, page: bool = True, parquet: bool = False) -> int:
    """Write ``scores.jsonl`` and ``scores.csv`` of a job's rows, in the order of their paths; return their number.

    An image that was scored twice, because it was asked for again or a machine died, counts once. Memory holds the
    paths, and some rows at a time.

    Args:
        output: The job's folder, or its address.
        into: Folder for the files; by default the job's.
        page: Whether ``index.html`` is written too.
        parquet: Whether ``scores.parquet`` is written too.

    Raises:
        FileNotFoundError: There are no rows.
        FolderInUseError: A job, or a run, is writing there.
        SettingsError: The folder for the files holds the rows of another run.
        ValueError: pyarrow is not installed, or an address is given without a folder for the files.
    """
    place = Place.of(output)
    if into is None and place.remote:
        raise ValueError(f"'{output}' is an address: say into which folder of this machine its rows are collected.")
    folder = Path(place.path if into is None else into)
    rows = rows_by_path(place)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        known = place.settings()
        if folder != Path(place.path):
            _check_same(folder, known or {})
        number = _write(folder, rows)
        if known is not None and folder != Path(place.path):
            write_settings(folder, known)
        finish(folder, page=page, parquet=parquet or (folder / PARQUET).exists())
    finally:
        lock.release()
    return number


def _check_same(folder: Path, known: Mapping[str, Any]) -> None:
    """Refuse to replace the rows of another run."""
    try:
        earlier = read_settings(folder)
        if earlier is not None:
            compare(folder, earlier, known)
    except SettingsError as error:
        raise SettingsError(f"'{folder}' holds the rows of another run: collect into another folder.") from error


def _write(folder: Path, rows: Iterator[Row]) -> int:
    parts = folder / "scores.jsonl.part", folder / "scores.csv.part"
    with (
        naming_disk(folder),
        parts[0].open("w", encoding="utf-8", newline="\n") as lines,
        parts[1].open("w", encoding="utf-8", errors="surrogateescape", newline="") as table,
    ):
        write_cells(table, [COLUMNS])
        number = 0
        for row in rows:
            lines.write(row.line())
            write_cells(table, [row.cells()])
            number += 1
    for part in parts:
        part.replace(part.with_suffix(""))
    return number


def rows_by_path(place: Place) -> Iterator[Row]:
    """Return a job's rows in the order of their paths, each once.

    Raises:
        FileNotFoundError: There are none.
        ValueError: pyarrow is not installed.
    """
    return _rows(_data(place))


def counts(place: Place) -> dict[str, int]:
    """Return how many rows a job has, with a score, with an error, and labelled normal and anomalous."""
    found = dict.fromkeys(("rows", "scored", "errors", "normal", "anomalous"), 0)
    try:
        data = _data(place)
    except FileNotFoundError:
        return found
    for batch in data.to_batches(columns=["score", "error", "label"]):
        score, error, label = batch.columns
        labels = label.to_numpy(zero_copy_only=False)
        found["rows"] += len(batch)
        found["scored"] += len(batch) - score.null_count
        found["errors"] += len(batch) - error.null_count
        found["normal"] += int((labels == 0).sum())
        found["anomalous"] += int((labels == 1).sum())
    return found


def _data(place: Place) -> Any:
    require_parquet()
    import pyarrow.dataset

    names = place.names(SCORES)
    if not names:
        raise FileNotFoundError(f"'{place.below(SCORES)}' holds no rows: 'zsad score --engine ray' writes them.")
    files = [place.inner(SCORES, name) for name in names]
    return pyarrow.dataset.dataset(files, format="parquet", filesystem=place.arrow())


def _rows(data: Any) -> Iterator[Row]:
    from pyarrow import compute, dataset

    paths = compute.unique(data.to_table(columns=["path"])["path"])
    paths = paths.take(compute.sort_indices(paths))
    path = dataset.field("path")
    for start in range(0, len(paths), _GROUP):
        span = paths.slice(start, _GROUP)
        table = data.to_table(filter=(path >= span[0]) & (path <= span[-1]))
        met: set[int] = set()
        for row, identity in zip(rows_of(table := table.sort_by("path")), table[ID].to_pylist(), strict=True):
            if identity not in met:
                met.add(identity)
                yield row
