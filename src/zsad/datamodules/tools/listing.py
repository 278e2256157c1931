"""``zsad data list``: what exists, and where to get it."""

import dataclasses

from rich.console import Console

from zsad.datamodules.facts import Facts, all_facts


def data_list(as_json: bool = False) -> int:
    """Print every known data set with its domain, counts, metrics, licence, size and source; return 0."""
    if as_json:
        Console().print_json(data=[_plain(facts) for facts in all_facts().values()])
        return 0
    console = Console(highlight=False)
    console.print("Key, title, numbers of classes and of normal + anomalous test images; then licence, size, source.")
    for facts in all_facts().values():
        total = facts.counts.get("*")
        images = "? images" if total is None else f"{total[0]} + {total[1]} images"
        classes = f"{len(facts.classes)} class{'es' if len(facts.classes) != 1 else ''}"
        console.print(
            f"[bold]{facts.key}[/bold]  {facts.title}: {facts.domain}, {classes}, {images}, {_levels(facts)}",
            soft_wrap=True,
        )
        get_it = f"zsad data download {facts.key}" if facts.download else facts.home or "see its page"
        console.print(f"    {facts.license}; {facts.size or 'size unknown'}; {get_it}", soft_wrap=True, markup=False)
    console.print("How to get one by hand: zsad data download KEY. All of it for programs: zsad data list --json.")
    return 0


def _levels(facts: Facts) -> str:
    levels = [level for level in ("image", "pixel") if any(name.startswith(level) for name in facts.metrics)]
    return " + ".join(levels) or "training only"


def _plain(facts: Facts) -> dict[str, object]:
    entry = dataclasses.asdict(facts)
    entry["counts"] = {name: list(pair) for name, pair in facts.counts.items()}
    return entry
