"""``scores.parquet``: the rows of a run as one typed table for other programs; extra ``parquet``."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from zsad.inference.rows import COLUMNS, JSON_ONLY, Row

PARQUET = "scores.parquet"
_GROUP = 10_000  # rows in memory
_TYPES = {
    "score": "float64", "label": "int8", "p_value": "float64", "p_upper": "float64", "alarm_rate": "float64",
    "n_regions": "int32", "width": "int32", "height": "int32", "bytes": "int64", "mtime": "float64",
}  # fmt: skip
"""The other columns are text; ``regions`` and ``explanation`` are JSON."""


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
    names = (*COLUMNS, *JSON_ONLY)
    schema = arrow.schema([(name, getattr(arrow, _TYPES.get(name, "string"))()) for name in names])
    path, part = folder / PARQUET, folder / f"{PARQUET}.part"
    with arrow.parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        cells = (_cells(row, names) for row in rows)
        while group := list(islice(cells, _GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))
    part.replace(path)
    return path


def _cells(row: Row, names: Iterable[str]) -> dict[str, Any]:
    return dict(_cell(name, getattr(row, name)) for name in names)


def _cell(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, (list, dict)):
        return name, json.dumps(value)
    if isinstance(value, str):  # a file's name may hold bytes that are no text
        return name, value.encode("utf-8", "backslashreplace").decode()
    return name, value
