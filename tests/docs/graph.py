"""The map of the wings, drawn from the imports: ``python -m tests.docs.graph`` writes it anew."""

from __future__ import annotations

import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from tests.test_imports import FILES, FLOORS, HALL, SOURCE, imported, module_of, wing

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
_BEGIN, _END = "<!-- generated: imports -->\n", "<!-- end: imports -->"


def edges() -> dict[str, list[str]]:
    """Wing -> wings that it imports from, floor by floor."""
    found: dict[str, set[str]] = {name: set() for wings in FLOORS for name in sorted(wings) if (SOURCE / name).is_dir()}
    for path in FILES:
        if path.name in HALL and path.parent == SOURCE:
            continue
        here = wing(module_of(path))
        found[here] |= {wing(other) for other in imported(path)} - {here}
    return {name: sorted(others) for name, others in found.items()}


def table(graph: dict[str, list[str]]) -> str:
    """The imports as a Markdown table."""
    lines = [f"| `{name}` | {', '.join(f'`{other}`' for other in others) or '-'} |" for name, others in graph.items()]
    number = sum(map(len, graph.values()))
    return "\n".join(
        [f"{len(graph)} wings, {number} arrows, no circle.", "", "| wing | imports from |", "|---|---|", *lines, ""]
    )


def reduced(graph: dict[str, list[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way over other wings replaces."""
    below: dict[str, set[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        others = graph.get(name, [])
        below[name] = set(others).union(*(below[other] for other in others)) if others else set()
    return [
        (name, other)
        for name, others in graph.items()
        for other in others
        if not any(other in below[between] for between in others)
    ]


def described(graph: dict[str, list[str]]) -> str:
    """What the picture shows, as text that is part of it."""
    return "; ".join(f"{name} imports {', '.join(others)}" for name, others in graph.items() if others)


def draw(graph: dict[str, list[str]], target: Path) -> None:
    """Draw the wings on their floors, and the arrows that no longer way replaces."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    depth: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        depth[name] = 1 + max((depth[other] for other in graph.get(name, [])), default=-1)
    rows = [[name for name in depth if depth[name] == level] for level in range(max(depth.values()) + 1)]
    widest = max(map(len, rows))
    places = {
        name: ((number + 0.5) * widest / len(row), float(level))
        for level, row in enumerate(rows)
        for number, name in enumerate(row)
    }
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "zsad"}):
        figure = Figure(figsize=(10, 8), layout="constrained")
        axes = figure.add_subplot()
        box = {"boxstyle": "round,pad=0.4", "facecolor": "#eef2f7", "edgecolor": "#4a6078"}
        for name, (x, y) in places.items():
            axes.text(x, y, f"{name}/" if name != "types" else name, ha="center", va="center", bbox=box, zorder=2)
        for name, other in reduced(graph):
            arrow = {"arrowstyle": "->", "color": "#4a6078", "shrinkA": 14, "shrinkB": 14, "alpha": 0.7}
            axes.annotate("", xy=places[other], xytext=places[name], arrowprops=arrow)
        axes.set(xlim=(0, widest), ylim=(-0.5, len(rows) - 0.5))
        axes.axis("off")
        figure.savefig(target, metadata={"Date": None, "Description": described(graph)})


def written() -> str:
    """The table that stands in the page."""
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)]


def shown() -> str:
    """What the committed picture says it shows."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", PICTURE.read_text(encoding="utf-8"), re.DOTALL)
    return found[1] if found else ""


def main() -> int:
    """Write the table and the picture."""
    graph = edges()
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    PAGE.write_text(f"{before}{_BEGIN}{table(graph)}{_END}{rest.partition(_END)[2]}", encoding="utf-8")
    draw(graph, PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
