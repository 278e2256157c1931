"""``zsad data list`` and ``zsad data show``: what exists, under which terms, and where to get it."""

import dataclasses
import difflib

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from zsad.datamodules.facts import Facts, all_facts
from zsad.report.terminal import tables


def data_list(as_json: bool = False) -> int:
    """Print a line for every known data set: key, title, images, metrics, licence; return 0.

    Args:
        as_json: Print all that is known of each, for programs.
    """
    console = Console(highlight=False)
    if as_json:
        console.print_json(data=[_plain(facts) for facts in all_facts().values()])
        return 0
    rows = [
        [facts.key, facts.title, _images(facts.counts.get("*")), _levels(facts), facts.license]
        for facts in all_facts().values()
    ]
    heads = ("key", "title", "images", "metrics", "licence")
    for table in tables(heads, rows, console.width, right=(2,), rest="zsad data show KEY"):
        console.print(table)
    console.print("Images: normal + anomalous ones of the test part. The rest of a line: zsad data show KEY.")
    return 0


def data_show(name: str, as_json: bool = False) -> int:
    """Print all that is known of one data set; return 0.

    Args:
        name: Its key.
        as_json: Print it for programs.

    Raises:
        ValueError: There is no such data set.
    """
    if name not in (known := all_facts()):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ValueError(f"No data set '{name}'; nearest: {near}, all: {', '.join(known)}.")
    facts, console = known[name], Console(highlight=False)
    if as_json:
        console.print_json(data=_plain(facts))
        return 0
    console.print(Text(f"{facts.title} ({facts.key})", style="bold"))
    fields = {
        "read by": f"zsad.datamodules.{facts.datamodule}, {facts.domain}",
        "metrics": ", ".join(facts.metrics) or "none: for training only",
        "images": f"{_images(facts.counts.get('*'))} (normal + anomalous; {facts.counts_status})",
        "licence": facts.license,
        "home": facts.home or "none",
        "size": facts.size or "unknown",
        "to get it": f"zsad data download {facts.key}" if facts.download else facts.obtain,
        "archive": f"{facts.archive}, sha256 {facts.sha256 or 'unknown'}" if facts.archive else "",
        "layout": facts.layout,
        "trust": "; ".join(f"{fact}: {tags}" for fact, tags in facts.trust.items()),
    }
    for head, text in fields.items():
        if text:
            console.print(f"{head}:")
            console.print(Padding(Text(text, overflow="fold"), (0, 0, 0, 4)))
    rows = [[one, facts.readable[one], _images(facts.counts.get(one))] for one in facts.classes]
    for table in tables(("class", "as a word", "images"), rows, console.width, right=(2,)):
        console.print(table)
    for way, found in facts.alternative_counts.items():
        note = found.get("note")
        counts = _images((found["normal"], found["anomalous"])) if "normal" in found else str(dict(found))
        console.print(Text(f"{way}: {counts}{f' ({note})' if note else ''}", overflow="fold"))
    return 0


def _images(counts: tuple[int, int] | None) -> str:
    return "?" if counts is None else f"{counts[0]} + {counts[1]}"


def _levels(facts: Facts) -> str:
    levels = [level for level in ("image", "pixel") if any(name.startswith(level) for name in facts.metrics)]
    return ", ".join(levels) or "training"


def _plain(facts: Facts) -> dict[str, object]:
    entry = dataclasses.asdict(facts)
    entry["counts"] = {name: list(pair) for name, pair in facts.counts.items()}
    return entry
