"""Lists of images as files: CSV, JSON lines, Parquet, the community's ``meta.json``; an input like a folder."""

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zsad.images.cells import read_cells
from zsad.images.fragments import resolved
from zsad.images.listing import Found, walk
from zsad.images.where import Roi

ALIASES = {
    "image_path": ("image_path", "path", "image", "img_path"),
    "mask_path": ("mask_path", "mask"),
    "class_name": ("class_name", "object", "cls_name"),
    "label": ("label", "anomaly"),
    "defect": ("defect", "specie_name"),
    "split": ("split",),
    "roi": ("roi",),
    "ignore_mask": ("ignore_mask",),
    "group": ("group",),
}
LINES = frozenset({".csv", ".jsonl", ".ndjson", ".parquet"})
"""Endings of lists with a row per image; ``.json`` holds a tree."""


class ManifestError(ValueError):
    """A list of images cannot be understood; the message names the file, the line and the value."""


def inputs(
    paths: Iterable[str | Path], passed: "Counter[str] | None" = None, avoid: Iterable[str | Path] = ()
) -> Iterator[Found]:
    """Yield the images under files, folders and manifests, as :func:`zsad.images.walk` does without manifests.

    Args:
        paths: In the order in which they come.
        passed: As for :func:`zsad.images.walk`.
        avoid: As for :func:`zsad.images.walk`.

    Raises:
        FileNotFoundError: A path does not exist.
        ManifestError: A row of a manifest is not understood.
    """
    for lists, group in itertools.groupby(paths, is_manifest):
        if lists:
            for path in group:
                yield from listed(path)
        else:
            yield from walk(group, passed, avoid)


def is_manifest(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a list of images by its ending: ``.csv``, ``.jsonl``, ``.ndjson`` or ``.parquet``."""
    return os.path.splitext(os.fspath(path))[1].lower() in LINES and os.path.isfile(path)


def listed(path: str | os.PathLike[str]) -> Iterator[Found]:
    """Yield the images of a manifest, in its order.

    Columns or keys: ``path`` (also ``image_path``, ``image``, ``img_path``), relative to the manifest's folder, and,
    where there is something to say, ``class_name`` (``object``, ``cls_name``), ``roi`` (X,Y,W,H in pixels or per cent),
    ``ignore_mask`` (a picture, relative to the manifest's folder) and ``group``. Others are passed over. A file that is
    not there becomes a row with an error later.

    Raises:
        ManifestError: A row is not understood; the message names the file, the line and the value.
    """
    shown = Path(path)
    root = os.path.realpath(shown.parent)
    known: dict[str, str] = {}
    for where, row in rows(shown):
        name = value_of(row, "image_path")
        if name is None:
            raise ManifestError(f"{where} has no path; expected the column 'path' in {sorted(map(str, row))}.")
        file = shown.parent / str(name)
        real = resolved(file)
        region, mask = (value_of(row, key) for key in ("roi", "ignore_mask"))
        if region is not None and (text := str(region)) not in known:
            try:
                known[text] = str(Roi.read(text))
            except ValueError as error:
                raise ManifestError(f"{where}: {error}") from error
        yield Found(
            str(file),
            real,
            os.path.relpath(real, root).replace(os.sep, "/") if real.startswith(root + os.sep) else file.name,
            root,
            class_name=_text(value_of(row, "class_name")),
            roi=None if region is None else known[str(region)],
            ignore_mask=None if mask is None else str(shown.parent / str(mask)),
            group=_text(value_of(row, "group")),
        )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def rows(path: Path, split: str = "test") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield where each row of a list stands and its values, one at a time.

    Args:
        path: The list.
        split: Of a ``meta.json``; other lists come whole.

    Raises:
        ManifestError: It is no list.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path)
        return
    with path.open(newline="", encoding="utf-8-sig") as file:
        if kind == ".csv":
            for number, row in enumerate(read_cells(file), start=2):
                yield f"'{path}' line {number}", row
        elif kind in {".jsonl", ".ndjson"}:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"'{path}' line {number}", _object(line, f"'{path}' line {number}")
        elif kind == ".json":
            yield from _meta(_parse(file.read(), f"'{path}'"), path, split)
        else:
            raise ManifestError(
                f"'{path}' is not a manifest; expected .csv, .jsonl, .ndjson, .parquet or .json, got '{kind}'."
            )


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ManifestError(f"'{path}': Parquet files need pip install 'zsad[parquet]'.") from error
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"'{path}' row {number}", row
    except ArrowInvalid as error:
        raise ManifestError(f"'{path}' is no Parquet file: {error}") from error


def _meta(content: Any, path: Path, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(content, list):
        content = {split: {"": content}}
    if not isinstance(content, dict):
        raise ManifestError(f"'{path}': expected {{split: {{class: [entry, ...]}}}}, got {type(content).__name__}.")
    key = next((name for name in content if name.lower() == split.lower()), None)
    if key is None:
        raise ManifestError(f"'{path}' has no split '{split}', only {sorted(content)}.")
    for name, entries in (content[key] or {}).items():
        for number, entry in enumerate(entries):
            where = f"'{path}' {key}/{name}[{number}]"
            if not isinstance(entry, dict):
                raise ManifestError(f"{where}: expected an object, got {type(entry).__name__}.")
            yield where, {"cls_name": name or None} | entry


def _object(text: str, where: str) -> dict[str, Any]:
    value = _parse(text, where)
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: expected an object, got {type(value).__name__}.")
    return value


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where} is not JSON: {error}.") from error


def value_of(row: Mapping[str, Any], key: str) -> Any:
    """Return what a row says under one of a key's names; None if it is missing or empty."""
    return next((row[name] for name in ALIASES[key] if row.get(name) not in (None, "")), None)
