"""The page about weights says what the table says."""

from __future__ import annotations

import re
from pathlib import Path

from zsad.weights import list_weights

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"


def test_every_adapter_that_can_be_had_stands_on_the_page_with_its_terms() -> None:
    rows = dict(re.findall(r"^\| `([^`]+)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.M))
    ready = [entry for entry in list_weights() if entry.status == "ready"]
    assert set(rows) == {entry.name for entry in ready}
    for entry in ready:
        cells = [cell.strip() for cell in rows[entry.name].split("|")]
        assert cells[3] == entry.commercial
        if len(entry.data) < 4:
            assert cells[0] == ", ".join(one.title for one in entry.data)
            assert cells[2] == "; ".join(one.licence for one in entry.data)
        if entry.files[0].expected.size is not None:
            assert cells[4] == f"{entry.files[0].expected.size / 1e6:.0f} MB"
