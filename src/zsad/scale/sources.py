"""What is to be scored, wherever it lies: folders and lists at an address, and shards that hold the images' bytes."""

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zsad.images.fragments import resolved
from zsad.images.listing import Found, is_image, walk
from zsad.images.manifest import LINES, ManifestError, rows, value_of
from zsad.inference.files import expanded
from zsad.scale.places import is_url, system

_PART = "#zsad:"  # ends an identity: where the bytes of an image lie inside the file before it


def is_elsewhere(path: str) -> bool:
    """Return whether a path is an address, a list or a shard, and no picture or folder of this machine."""
    return is_url(path) or os.path.splitext(path)[1].lower() in LINES | {".tar"}


def gathered(paths: Sequence[str], avoid: str) -> Iterator[Found]:
    """Yield the images of folders, addresses, lists and shards, in their order.

    An address may be an image, a folder (every image below it), a list (as
    :func:`zsad.images.manifest.listed` reads it; its paths are relative to it, or addresses themselves) or a shard. A
    shard is a tar file whose images are named by their key (WebDataset), or a Parquet file with a column of bytes
    (``bytes``, or ``image`` as bytes or as a struct of ``bytes`` and ``path``).

    Args:
        paths: What is given; patterns are for this machine's files.
        avoid: Folder that is not entered.

    Raises:
        FileNotFoundError: There is nothing.
        ManifestError: A list is not understood, or a shard has no bytes.
    """
    for given in paths:
        for path in [given] if is_url(given) else expanded([given]):
            ending = os.path.splitext(path)[1].lower()
            if ending == ".tar":
                yield from _tar(path)
            elif ending == ".parquet" and (column := _column(path)) is not None:
                yield from _cells(path, column)
            elif ending in LINES:
                yield from _list(path)
            elif is_url(path):
                yield from _folder(path, avoid)
            else:
                yield from walk([path], avoid=[avoid])


def _open(path: str) -> Any:
    if not is_url(path):
        return open(path, "rb")
    files, inner = system(path)
    return files.open(inner, "rb")


def _folder(url: str, avoid: str) -> Iterator[Found]:
    files, inner = system(url)
    files.invalidate_cache()  # a process that lives long sees what was added since
    if not files.exists(inner):
        raise FileNotFoundError(f"No such file or folder: '{url}'.")
    root = files.unstrip_protocol(inner.rstrip("/"))
    if files.isfile(inner):
        yield Found(root, root, os.path.basename(root), root.rpartition("/")[0])
        return
    start = inner.rstrip("/") + "/"
    for name in sorted(files.find(inner)):
        below = name[len(start) :]
        path = f"{root}/{below}"
        hidden = any(part.startswith(".") for part in below.split("/"))
        if is_image(below) and not hidden and not path.startswith(f"{avoid}/"):
            yield Found(path, path, below, root)


def _list(path: str) -> Iterator[Found]:
    with TemporaryDirectory(prefix="zsad-") as made:
        near = Path(path)
        if is_url(path):
            near = Path(made, path.rsplit("/", 1)[-1])
            files, inner = system(path)
            files.get_file(inner, str(near))
        folder = path.rpartition("/")[0] if is_url(path) else str(near.parent)
        root = folder if is_url(path) else os.path.realpath(folder)
        for where, row in rows(near):
            name, mask = (value_of(row, key) for key in ("image_path", "ignore_mask"))
            if name is None:
                raise ManifestError(f"{where} has no path; expected the column 'path' in {sorted(map(str, row))}.")
            shown = _beside(folder, str(name))
            real = shown if is_url(shown) else resolved(shown)
            inside = real.startswith(f"{root}/")
            about = {key: value_of(row, key) for key in ("class_name", "roi", "group")}
            yield Found(
                shown,
                real,
                real[len(root) + 1 :] if inside else real.rsplit("/", 1)[-1],
                root,
                ignore_mask=None if mask is None else _beside(folder, str(mask)),
                **{key: None if value is None else str(value) for key, value in about.items()},
            )


def _beside(folder: str, name: str) -> str:
    if is_url(name):
        return name
    return f"{folder}/{name.lstrip('/')}" if is_url(folder) else str(Path(folder) / name)


def _tar(path: str) -> Iterator[Found]:
    """Yield the images of a tar file by where their bytes begin, so that each is read alone."""
    real = path if is_url(path) else os.path.realpath(path)
    try:
        with closing(_open(path)) as file, tarfile.open(fileobj=file, mode="r:") as shard:
            places: dict[str, dict[str, Any]] = {}
            for one in shard:
                if one.isfile():
                    places[one.name] = {"start": one.offset_data, "size": one.size}
                elif one.islnk() and one.linkname in places:  # a file with two names: the second time without bytes
                    places[one.name] = {**places[one.linkname], "name": one.name}  # an image of its own
                else:
                    continue
                if is_image(one.name.rsplit("/", 1)[-1]):
                    yield Found(f"{path}/{one.name}", real + _PART + json.dumps(places[one.name]), one.name, real)
    except tarfile.TarError as error:
        raise ManifestError(f"'{path}' is no tar file that is written without compression: {error}.") from error


def _column(path: str) -> str | None:
    from pyarrow import ArrowInvalid, parquet, types

    try:
        with closing(_open(path)) as file:
            schema = parquet.read_schema(file)
    except ArrowInvalid as error:
        raise ManifestError(f"'{path}' is no Parquet file: {error}") from error
    for name in ("bytes", "image"):
        if name in schema.names:
            kind = schema.field(name).type
            if types.is_binary(kind) or types.is_large_binary(kind):
                return name
            if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return f"{name}.bytes"
    return None


def _cells(path: str, column: str) -> Iterator[Found]:
    """Yield the images of a Parquet file by row group and row; their bytes are not read."""
    from pyarrow import parquet

    real = path if is_url(path) else os.path.realpath(path)
    with closing(_open(path)) as opened:
        file = parquet.ParquetFile(opened)
        names = set(file.schema_arrow.names)
        wanted = [name for name in ("path", "class_name") if name in names]
        if column == "image.bytes" and file.schema_arrow.field("image").type.get_field_index("path") >= 0:
            wanted.append("image.path")
        for group in range(file.num_row_groups):
            number = file.metadata.row_group(group).num_rows
            table = file.read_row_group(group, wanted).to_pylist() if wanted else [{}] * number
            for row, values in enumerate(table):
                inner = values.get("image") or {}
                below = str(values.get("path") or inner.get("path") or f"{group}-{row}")
                part = json.dumps({"group": group, "row": row, "column": column})
                kind = values.get("class_name")
                yield Found(
                    f"{path}/{below}", real + _PART + part, below, real, class_name=None if kind is None else str(kind)
                )


def near(found: Found, folder: str, name: str) -> Found:
    """Return an image as a file of this machine: itself, or its copy in a folder; one with an error if that failed.

    Args:
        found: Of :func:`gathered` or of a folder of this machine.
        folder: For copies.
        name: Of the copy, without its ending.
    """
    place, _, part = found.real.partition(_PART)
    if found.error is not None or not (part or is_url(found.path) or is_url(found.ignore_mask or "")):
        return found
    try:
        path, mask = found.path, found.ignore_mask
        if part or is_url(path):
            path = os.path.join(folder, name + os.path.splitext(found.below)[1].lower())
            Path(path).write_bytes(_bytes(place, json.loads(part) if part else {}))
        if mask is not None and is_url(mask):
            mask = os.path.join(folder, f"{name}-mask{os.path.splitext(mask)[1].lower()}")
            Path(mask).write_bytes(_bytes(found.ignore_mask or "", {}))
    except Exception as error:  # a store's own errors are of many kinds; each is one image's
        reason = str(error).strip() or type(error).__name__
        return replace(found, error=f"Cannot read '{found.path}': {reason}")
    return replace(found, path=path, ignore_mask=mask)


def _bytes(place: str, part: dict[str, Any]) -> bytes:
    if "group" in part:
        return _group(place, part["group"], part["column"])[part["row"]]
    start, size = part.get("start"), part.get("size")
    if is_url(place):  # one request, where opening asks for the size first
        files, inner = system(place)
        return bytes(files.cat_file(inner, start=start, end=None if start is None else start + size))
    with open(place, "rb") as file:
        file.seek(start or 0)
        return file.read(size)


@lru_cache(maxsize=2)  # a block's images lie side by side
def _group(place: str, group: int, column: str) -> list[bytes]:
    from pyarrow import parquet

    with closing(_open(place)) as file:
        table = parquet.ParquetFile(file).read_row_group(group, [column])
    outer, _, inner = column.partition(".")
    return [value[inner] if inner else value for value in table[outer].to_pylist()]
