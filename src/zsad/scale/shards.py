"""The list of images as files of some thousand lines: what one task reads, scores and makes durable."""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import astuple, replace
from pathlib import Path

from zsad.images.listing import Found
from zsad.inference.files import digest
from zsad.inference.parquet import require_parquet
from zsad.scale.places import Place, is_url
from zsad.scale.worker import ID

INPUTS = "inputs"


def write_shards(files: Iterable[Found], shown: Callable[[str], str], place: Place, size: int) -> int:
    """Write the list below a job's folder in place of an earlier one, and return the number of files.

    Args:
        files: The images, in order.
        shown: Spells a path as rows show it.
        place: Of the job.
        size: Images per file: what a kill may cost each worker.
    """
    arrow = require_parquet()
    place.remove(INPUTS)
    place.make(INPUTS)
    every, number = iter(files), 0
    while some := list(itertools.islice(every, size)):
        columns = {
            "path": [_text(shown(one.path)) for one in some],
            "found": [json.dumps(astuple(_anywhere(one))) for one in some],
            ID: arrow.array([_signed(digest(one.real)) for one in some], arrow.int64()),
        }
        name = place.inner(INPUTS, f"{number:06d}.parquet")
        arrow.parquet.write_table(arrow.table(columns), name, filesystem=place.arrow())
        number += 1
    return number


def _anywhere(found: Found) -> Found:
    """The image with paths that mean the same in every process."""
    path, mask = (
        Path(name).absolute().as_posix() if name and not is_url(name) else name
        for name in (found.path, found.ignore_mask)
    )
    return replace(found, path=str(path), ignore_mask=mask)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _text(path: str) -> str:
    """A path as Parquet can hold it: bytes that are no text are spelled out."""
    return path.encode("utf-8", "backslashreplace").decode()
