"""Tables in a terminal of any width: lines break between words, and a table that is too wide gives up whole columns."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

_GAP = 2  # characters between columns


def tables(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    title: str = "",
    *,
    further: bool = False,
    rest: str = "",
    right: Sequence[int] = (),
    whole: Sequence[int] = (0,),
    styles: Sequence[str] = (),
) -> list[RenderableType]:
    """Return rows as tables that fit a terminal, ready to be printed one below the other.

    Args:
        heads: Of the columns, the most important ones first.
        rows: Plain text, one cell per column.
        width: Of the terminal, in characters.
        title: Above each table.
        further: Columns that find no room go into a further table that begins with column 0 again; else they are left
            out, and a line below the table names them.
        rest: Where what was left out can be seen, a command.
        right: Columns that are aligned to the right.
        whole: Columns whose cells never break, such as keys that one copies.
        styles: Of the rows.
    """
    natural = [max(map(len, [head, *cells])) for head, cells in _columns(heads, rows)]
    least = [
        max(len(word) for text in [head, *cells] for word in (text.split() or [""]))
        if number not in whole
        else max(map(len, [*head.split(), *cells]))
        for number, (head, cells) in enumerate(_columns(heads, rows))
    ]
    parts = _parts(least, width, further)
    shown = parts if further else parts[:1]
    left_out = [heads[number] for part in parts[len(shown) :] for number in part[1:]]
    made: list[RenderableType] = []
    for part in shown:
        made += [Text(title, style="italic")] if title else []
        made.append(_table(heads, rows, part, _widths(natural, least, part, width), right, styles))
    if left_out:
        made.append(Text(f"No room for: {', '.join(left_out)}.{f' See: {rest}' if rest else ''}", style="dim"))
    return made


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[tuple[str, list[str]]]:
    return [(head, [row[number] for row in rows]) for number, head in enumerate(heads)]


def _parts(least: Sequence[int], width: int, further: bool) -> list[list[int]]:
    """Return the columns of each table, all of which begin with column 0."""
    parts: list[list[int]] = [[0]]
    for number in range(1, len(least)):
        may_end = len(parts[-1]) > 1 or not further  # further tables have something beside column 0
        if may_end and sum(least[one] + _GAP for one in parts[-1]) + least[number] > width:
            parts.append([0])
        parts[-1].append(number)
    return parts


def _widths(natural: Sequence[int], least: Sequence[int], part: Sequence[int], width: int) -> list[int]:
    """Return the widths of some columns: the widest gives way first, none below its longest word."""
    found = [natural[number] for number in part]
    bounds = [least[number] for number in part]
    while sum(found) + _GAP * (len(part) - 1) > width:
        room = [have - bound for have, bound in zip(found, bounds, strict=True)]
        if not any(room):
            break
        widest = max((number for number, free in enumerate(room) if free), key=found.__getitem__)
        found[widest] -= 1
    return found


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    part: Sequence[int],
    widths: Sequence[int],
    right: Sequence[int],
    styles: Sequence[str],
) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, width in zip(part, widths, strict=True):
        table.add_column(
            Text(heads[number]), justify="right" if number in right else "left", width=width, overflow="fold"
        )
    for place, row in enumerate(rows):
        table.add_row(*(Text(row[number]) for number in part), style=styles[place] if styles else None)
    return table
