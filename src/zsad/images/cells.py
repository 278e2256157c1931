"""CSV cells that a spreadsheet neither runs nor splits, and that are read back as they were."""

import csv
from collections.abc import Iterable, Sequence
from typing import TextIO

_RUN = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula to a spreadsheet


def protected(text: str) -> str:
    """Return a text as a cell: one that a spreadsheet would run gets an apostrophe in front, the sign for "text".

    A text that begins with an apostrophe gets one more, so that :func:`plain` finds the original.
    """
    return f"'{text}" if text.startswith((*_RUN, "'")) else text


def plain(cell: str) -> str:
    """Return the text that :func:`protected` made a cell of; other cells come back as they are."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*_RUN, "'")) else cell


def write_cells(file: TextIO, rows: Iterable[Sequence[str | float | None]]) -> None:
    """Append rows to a CSV file: texts protected, numbers as they are, None empty.

    Args:
        file: Opened with ``newline=""``.
        rows: Cells of each row.
    """
    usual = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)  # Python 3.12 leaves a lone "\r" bare
    for row in rows:
        cells = ["" if cell is None else protected(cell) if isinstance(cell, str) else str(cell) for cell in row]
        (quoted if any("\r" in cell for cell in cells) else usual).writerow(cells)


def read_cells(file: TextIO) -> Iterable[dict[str, str]]:
    """Yield the rows of a CSV file with a header, as they were before :func:`write_cells`.

    Args:
        file: Opened with ``newline=""``.
    """
    for row in csv.DictReader(file):
        yield {name: plain(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
