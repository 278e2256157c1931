"""What ``zsad data`` shows: what exists, under which terms, where to get it, and what was found in a copy."""

import dataclasses
import difflib
from collections import Counter

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from zsad.datamodules.facts import Facts, all_facts
from zsad.datamodules.tools import CheckReport
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


def show_report(report: CheckReport, console: Console) -> None:
    """Print what was found in a copy of a data set."""
    if report.problem:
        console.print(f"{report.name}: {report.problem}", style="red", markup=False)
        return
    keys = ("normal", "expected_normal", "anomalous", "expected_anomalous")
    rows = [[name, *(str(numbers.get(key, "")) for key in keys)] for name, numbers in report.classes.items()]
    heads = ("class", "normal", "expected", "anomalous", "expected")
    console.print(f"{report.name} in {report.root}", soft_wrap=True, markup=False, highlight=False)
    for table in tables(heads, rows, console.width, right=range(1, 5), rest="--json"):
        console.print(table)
    sizes = Counter((row["width"], row["height"]) for row in report.images if row["width"])
    if sizes:
        (width, height), often = sizes.most_common(1)[0]
        console.print(f"{len(report.images)} images of {len(sizes)} size(s), most often {width} x {height} ({often}).")
    problems = [
        ("other numbers than the papers", report.count_differences),
        ("unreadable", [f"{one['file']}: {one['error']}" for one in report.unreadable]),
        ("masks that do not fit", [f"{one['mask']} ({one['image']}): {one['error']}" for one in report.mask_problems]),
    ]
    notes = [
        ("anomalous images with an empty mask", report.empty_masks),
        ("masks with more than two levels (see mask_threshold)", report.many_levels),
        ("classes without anomalies", report.without_anomalies),
        ("classes without normal images", report.without_normals),
        ("groups of identical images", [" = ".join(group) for group in report.duplicates]),
        ("images without a label", [""] * report.unknown_labels),
        ("warnings", report.warnings),
    ]
    for style, entries in (("red", problems), ("yellow", notes)):
        for title, lines in entries:
            if lines:
                console.print(f"{len(lines)} {title}", style=style, markup=False)
                for line in filter(None, lines[:10]):
                    console.print(f"  {line}", markup=False, highlight=False)
                if len(lines) > 10:
                    console.print(f"  and {len(lines) - 10} more")
    console.print("good" if report.good else "not good", style="green" if report.good else "red")


def _images(counts: tuple[int, int] | None) -> str:
    return "?" if counts is None else f"{counts[0]} + {counts[1]}"


def _levels(facts: Facts) -> str:
    levels = [level for level in ("image", "pixel") if any(name.startswith(level) for name in facts.metrics)]
    return ", ".join(levels) or "training"


def _plain(facts: Facts) -> dict[str, object]:
    entry = dataclasses.asdict(facts)
    entry["counts"] = {name: list(pair) for name, pair in facts.counts.items()}
    return entry
