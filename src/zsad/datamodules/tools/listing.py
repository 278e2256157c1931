"""``zsad data list``: what exists, and where to get it."""

import dataclasses

from rich.console import Console
from rich.table import Table

from zsad.datamodules.facts import Facts, all_facts


def data_list(as_json: bool = False) -> int:
    """Print every known data set with its domain, counts, metrics, licence, size and source; return 0."""
    if as_json:
        Console().print_json(data=[_plain(facts) for facts in all_facts().values()])
        return 0
    table = Table(title="Data sets (normal + anomalous test images)", expand=True)
    for heading in ("key", "title", "domain", "classes", "images", "metrics", "licence", "size", "get it"):
        table.add_column(heading, overflow="fold")
    for facts in all_facts().values():
        total = facts.counts.get("*")
        table.add_row(
            facts.key,
            facts.title,
            facts.domain,
            str(len(facts.classes)),
            "?" if total is None else f"{total[0]} + {total[1]}",
            _levels(facts),
            facts.license,
            facts.size or "?",
            f"zsad data download {facts.key}" if facts.download else f"{facts.obtain} {facts.home or ''}".strip(),
        )
    Console().print(table)
    return 0


def _levels(facts: Facts) -> str:
    levels = [level for level in ("image", "pixel") if any(name.startswith(level) for name in facts.metrics)]
    return " + ".join(levels) or "training only"


def _plain(facts: Facts) -> dict[str, object]:
    entry = dataclasses.asdict(facts)
    entry["counts"] = {name: list(pair) for name, pair in facts.counts.items()}
    return entry
