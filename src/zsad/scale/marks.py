"""What is durable, by the marks that Ray keeps of finished blocks: put right after a kill."""

import re
from bisect import bisect_left
from contextlib import suppress

from zsad.scale.collect import SCORES
from zsad.scale.places import Place

DONE = "checkpoint"
"""Folder of the marks."""
_PENDING = ".pending.parquet"  # Ray's ending of a mark whose rows are still being written
_NAMED = re.compile(r"_\d{6,}$")  # a mark named as its rows are; of others nothing is known


def settle(place: Place) -> int:
    """Make marks and rows agree, and return how many blocks have lost their rows and are to be done again.

    Ray sets a mark as pending, writes the block's rows and moves the mark. A store has no move, only a copy and a
    deletion: a kill between them leaves both marks, of which Ray removes the rows for one and skips the block for
    the other. So the copy counts here. A mark without rows, whoever lost them, goes.

    Args:
        place: Of a job that is not running.

    Raises:
        OSError: The file system cannot be reached.
    """
    marks = place.names(DONE)
    finished = {name.removesuffix(".parquet") for name in marks if not name.endswith(_PENDING)}
    for name in marks:
        if name.endswith(_PENDING) and name.removesuffix(_PENDING) in finished:
            with suppress(FileNotFoundError):  # a killed driver's last worker has just done it
                place.remove(f"{DONE}/{name}")
    rows = place.names(SCORES)  # each begins with its mark's name
    named = filter(_NAMED.search, finished)
    lost = [mark for mark in named if not any(name.startswith(mark) for name in _next(rows, mark))]
    for mark in lost:
        place.remove(f"{DONE}/{mark}.parquet")
    return len(lost)


def _next(names: list[str], name: str) -> list[str]:
    """Return the first of sorted names that is not before another."""
    place = bisect_left(names, name)
    return names[place : place + 1]
