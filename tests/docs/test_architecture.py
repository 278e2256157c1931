"""The page of the architecture is true: its map is that of the imports, its links lead to what they name."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.graph import PAGE, ROOT, described, edges, reduced, shown, table, written
from tests.test_imports import SOURCE

AGAIN = "the imports have changed: python -m tests.docs.graph"


def test_table_and_picture_are_those_of_the_imports() -> None:
    graph = edges()
    assert written() == table(graph), AGAIN
    assert shown() == described(graph), AGAIN


def test_a_new_arrow_is_noticed() -> None:
    graph = edges()
    graph["images"] = sorted({*graph["images"], "metrics"})
    assert written() != table(graph)
    assert shown() != described(graph)


def test_an_arrow_that_a_longer_way_replaces_is_not_drawn() -> None:
    graph = {"a": ["b", "c"], "b": ["c"], "c": []}
    assert reduced(graph) == [("a", "b"), ("b", "c")]


def test_every_wing_has_a_paragraph() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for folder in sorted(path for path in SOURCE.iterdir() if (path / "__init__.py").is_file()):
        paragraph = re.search(rf"^\*\*`{folder.name}/`\*\* (.{{60,}}?)\n\n", text, re.M | re.S)
        assert paragraph, f"docs/architecture.md says nothing of {folder.name}/"


def test_links_into_the_code_lead_somewhere() -> None:
    links = re.findall(r"\[`?([^\]`]+)`?\]\((\.\./[^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert len(links) > 12
    for name, target in links:
        path = (PAGE.parent / target).resolve()
        assert path.exists(), target
        assert ROOT in path.parents
        if path.suffix == ".py" and not name.endswith(".py"):
            word = name.rpartition(".")[2].rstrip("()")
            assert re.search(rf"^\s*(def|class) {word}\b|^{word}\b", Path(path).read_text(encoding="utf-8"), re.M), name
