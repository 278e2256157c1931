"""``scores.parquet``: the rows of a run as one typed table for other programs; extra ``parquet``."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from zsad.inference.rows import COLUMNS, JSON_ONLY, Row

PARQUET = "scores.parquet"
_NAMES = (*COLUMNS, *JSON_ONLY)
_GROUP = 10_000  # rows in memory
_TYPES = {
    "score": "float64", "label": "int8", "p_value": "float64", "p_upper": "float64", "alarm_rate": "float64",
    "n_regions": "int32", "width": "int32", "height": "int32", "bytes": "int64", "mtime": "float64",
}  # fmt: skip
"""The other columns are text."""

_JSON = ("regions", "explanation", "where", "tiles")
"""Columns that hold JSON."""


def require_parquet() -> Any:
    """Return pyarrow.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError('Parquet needs pyarrow: pip install "zsad[parquet]".') from error
    return pyarrow


def write_parquet(folder: Path, rows: Iterable[Row]) -> Path:
    """Write the rows of a run, whole or not at all, and return the file's path.

    Args:
        folder: Of the run.
        rows: In order; few are in memory at a time.

    Raises:
        ValueError: pyarrow is not installed.
    """
    arrow = require_parquet()
    schema = _schema(arrow)
    path, part = folder / PARQUET, folder / f"{PARQUET}.part"
    with arrow.parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        cells = map(_cells, rows)
        while group := list(islice(cells, _GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))
    part.replace(path)
    return path


def table_of(rows: Iterable[Row]) -> Any:
    """Return rows as a table of pyarrow.

    Raises:
        ValueError: pyarrow is not installed.
    """
    arrow = require_parquet()
    return arrow.Table.from_pylist([_cells(row) for row in rows], _schema(arrow))


def rows_of(table: Any) -> Iterator[Row]:
    """Yield the rows of a table of pyarrow that :func:`table_of` made; other columns are passed over."""
    for values in table.select(_NAMES).to_pylist():
        yield Row(**values | {name: json.loads(values[name]) for name in _JSON if values[name] is not None})


def _schema(arrow: Any) -> Any:
    return arrow.schema([(name, getattr(arrow, _TYPES.get(name, "string"))()) for name in _NAMES])


def _cells(row: Row) -> dict[str, Any]:
    return dict(_cell(name, getattr(row, name)) for name in _NAMES)


def _cell(name: str, value: Any) -> tuple[str, Any]:
    if name in _JSON and value is not None:
        return name, json.dumps(value)
    if isinstance(value, str):  # a file's name may hold bytes that are no text
        return name, value.encode("utf-8", "backslashreplace").decode()
    return name, value
