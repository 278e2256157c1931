"""Look at the scores of a run in windows and tell changed images from more defects than usual.

Windows are of 50, later 200 images. It warns and changes no label.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from zsad.cli.arguments import Parser
from zsad.decision import Card
from zsad.decision.drift import FIRST, Watch, watch_of
from zsad.decision.entry import ClassEntry
from zsad.inference.rows import Row
from zsad.report.charts import lines
from zsad.report.page import heading, page, paragraph, table
from zsad.report.terminal import tables

_COLUMNS = ("window", "images", "says", "median", "alarms", "p of the body", "p of the alarms")


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = Parser("zsad drift", __doc__)
    made.add_argument("card", type=Path, metavar="CARD", help="of 'zsad calibrate'")
    made.add_argument("rows", nargs="+", type=Path, metavar="SCORES", help="scores.jsonl of runs, oldest first")
    made.add_argument("--class-name", help="of rows that name none (default: the card's, if it has one class)")
    made.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    made.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots there")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0, whatever was found."""
    args = parser().parse_args(arguments)
    card, console = Card.load(args.card), Console(quiet=args.json)
    scores: dict[str, list[float]] = {}
    for path in args.rows:
        if not path.is_file():
            raise FileNotFoundError(f"No such file of rows: '{path}'.")
        with path.open(encoding="utf-8") as file:
            for row in map(Row.read, file):
                name = row.class_name or args.class_name or next(iter(card.classes))
                if row.score is not None:
                    scores.setdefault(name, []).append(row.score)
    if not scores:
        raise ValueError(f"There is no score in {', '.join(str(path) for path in args.rows)}.")
    parts: list[str] = []
    watches: dict[str, Watch] = {}
    for name, values in scores.items():
        watches[name] = watch_of(card.entry(name))
        parts += _one_class(console, name, card.entry(name), watches[name], values, recalibrate(args.card, name))
    if args.html is not None:
        args.html.write_text(page("Drift", parts), encoding="utf-8")
        console.print(f"{args.html}", highlight=False, soft_wrap=True)
    if args.json:
        print(json.dumps({name: _plain(watch) for name, watch in watches.items()}))
    return 0


def _plain(watch: Watch) -> dict[str, Any]:
    """Return what a watch saw, ready for JSON; ``kind`` is null, "changed" or "defects"."""
    windows = [asdict(one) | {"kind": one.kind} for one in watch.windows]
    return {"calibration_median": watch.median, "windows": windows}


def recalibrate(card: Path | None, class_name: str) -> str:
    """Return the command that renews a class of a card."""
    return f'zsad calibrate NEW_GOOD_IMAGES --out {card or "CARD"} --add --class-name "{class_name}"'


def warn(
    console: Console, card: Card, watches: dict[str, Watch], name: str, scores: Iterable[float], given: Path | None
) -> None:
    """Warn where scores of production leave those of a card.

    Args:
        console: Where it is said.
        card: Of the run.
        watches: Of the classes met so far.
        name: Of the class.
        scores: In the order of production.
        given: The card's file.
    """
    watch = watches[name] if name in watches else watches.setdefault(name, watch_of(card.entry(name)))
    for window in watch.add(scores):
        message = watch.message(window, name, recalibrate(given, name))
        console.print(f"[yellow]{escape(message)}[/yellow]", highlight=False)


def _one_class(
    console: Console, name: str, entry: ClassEntry, watch: Watch, scores: Sequence[float], command: str
) -> list[str]:
    warnings = watch.add(scores)
    parts = [heading(name)]
    if not watch.windows:
        text = f"'{name}': {len(scores)} images are fewer than one window of {FIRST}."
        console.print(text, highlight=False)
        return [*parts, paragraph(text)]
    said = {None: "", "changed": "images have changed", "defects": "more defects"}
    rows = [
        [
            str(one.number), f"{one.first}-{one.last}", said[one.kind], f"{one.median:.5g}", str(one.alarms),
            f"{one.body:.2g}", f"{one.tail:.2g}",
        ]
        for one in watch.windows
    ]  # fmt: skip
    title = f"{name}, calibration median {watch.median:.5g}"
    console.print(*tables(_COLUMNS, rows, console.width, title, rest="--json"), sep="\n")
    for window in warnings:
        message = watch.message(window, name, command)
        console.print(f"[yellow]{message}[/yellow]", highlight=False)
        parts.append(paragraph(message, "note"))
    if not warnings:
        text = f"No sign of a change in {watch.windows[-1].last} images of '{name}'."
        console.print(text, highlight=False)
        parts.append(paragraph(text))
    last = watch.windows[-1].last
    middle = [(one.first + one.last) / 2 / last for one in watch.windows]
    below = [float((np.asarray(scores[one.first - 1 : one.last]) <= watch.median).mean()) for one in watch.windows]
    alarms = [one.alarms / (one.last - one.first + 1) for one in watch.windows]
    usual = watch.k / (entry.calibration.n + 1)
    curves = {
        "at or below the calibration's median": (middle, below),
        "half, as without drift": ([0.0, 1.0], [0.5, 0.5]),
        "alarms": (middle, alarms),
        "alarms promised": ([0.0, 1.0], [usual, usual]),
    }
    parts.append(lines(curves, f"share of the {last} images", "share of a window"))
    return [*parts, table(_COLUMNS, rows)]
