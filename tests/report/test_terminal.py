"""Tables of any width: what is shown is whole, what is not is named."""

import io
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from zsad.report.terminal import tables

WORD = st.text("abcdefgh", min_size=1, max_size=12)
CELL = st.lists(WORD, max_size=5).map(" ".join)


def printed(width: int, heads: Sequence[str], rows: Sequence[Sequence[str]], **options: Any) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    for table in tables(heads, rows, width, **options):
        console.print(table)
    return console.export_text().splitlines()


@given(st.lists(st.tuples(WORD, *[CELL] * 5), min_size=1, max_size=4), st.integers(14, 100))
def test_no_word_is_ever_cut(rows: list[tuple[str, ...]], width: int) -> None:
    heads = ["key", "one", "two", "three", "four", "five"]
    for further in (True, False):
        made = [one for one in tables(heads, rows, width, further=further) if isinstance(one, Table)]
        kept = {str(column.header) for table in made for column in table.columns}
        lines = printed(width, heads, rows, further=further)
        assert max(map(len, lines)) <= max(width, 12)
        words = {word for line in lines for word in line.replace(",", " ").replace(".", " ").split()}
        for row in rows:
            for head, cell in zip(heads, row, strict=True):
                if head in kept and sum(len(word) for word in cell.split()) + 16 <= width:
                    assert set(cell.split()) <= words
        assert kept == set(heads) if further else {*heads} - kept <= words


def test_keys_are_never_broken_and_numbers_stand_to_the_right() -> None:
    lines = printed(30, ("a key", "n", "text"), [("with spaces in", "5", "several words of it")], right=(1,))
    assert lines[0].split() == ["a", "key", "n", "text"]
    assert lines[2].startswith("with spaces in  5  ")
    assert " ".join(line[19:] for line in lines[2:]).split() == ["several", "words", "of", "it"]


@pytest.mark.parametrize(("width", "left_out"), [(40, ""), (20, "c"), (12, "b, c")])
def test_what_has_no_room_is_named_with_where_to_see_it(width: int, left_out: str) -> None:
    lines = printed(width, ("a", "b", "c"), [("aaaaaaaa", "bbbbbbbb", "cccccccc")], rest="--json")
    said = " ".join(" ".join(lines).split())
    assert ("No room for" in said) == bool(left_out)
    assert not left_out or f"No room for: {left_out}. See: --json" in said
    assert printed(width, ("a", "b"), [], title="nothing")[0].strip() == "nothing"
