"""What ``zsad calibrate`` says: the promise, labelled figures, and a page with pictures, splits and held-out rates."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from zsad.decision.entry import ClassEntry
from zsad.decision.evaluation import REASONS, held_out_rate, promise, reliability, split_rates
from zsad.decision.rules import precision_at
from zsad.images import load_rgb
from zsad.inference.calibration import Seen
from zsad.inference.inputs import smaller
from zsad.report.charts import lines
from zsad.report.page import heading, page, paragraph, picture, pictures, table

_ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2)
_COLUMNS = (
    "class",
    "alpha",
    "n",
    "m",
    "promised %",
    "measured %",
    "5 % of splits",
    "95 % of splits",
    "band low",
    "band high",
)


def say_promise(console: Console, class_name: str, entry: ClassEntry) -> None:
    """Print what may be expected of good parts."""
    console.print(f"'{class_name}': {promise_of(entry)}.", highlight=False)


def promise_of(entry: ClassEntry) -> str:
    """Return what a card promises of good parts, in a sentence."""
    n, mean, upper = entry.calibration.n, entry.rate[0], entry.rate[1]
    said = f"alarm from {entry.threshold:.6g} on, by {entry.rule} and {n} good images: "
    if entry.delta is not None and entry.k is not None:
        return (
            f"{said}{100 * (1 - entry.delta):g} % sure that at most {100 * (entry.alpha or 0):g} % of good parts alarm "
            f"({100 * (mean or 0):.3g} % on average)"
        )
    if entry.rule.name == "far" and entry.k is not None:
        return said + promise(entry.k, n)
    if mean is not None and upper is not None:
        return f"{said}{100 * mean:.3g} % false alarms are expected, at most {100 * upper:.2g} % (95 % sure)"
    return f"{said}no promise about further images" + (
        "" if mean is None else f"; held out, {100 * mean:.3g} % alarmed"
    )


def say_labelled(console: Console, entry: ClassEntry) -> None:
    """Print what the threshold does to the labelled images, in sample and held out."""
    found = entry.anomalous
    if found is None:
        return
    shown = Table("on", "false alarms %", "recall %", "precision %", "F1 %")
    for name in ("in_sample", "held_out"):
        if found[name] is not None:
            values = [found[name][key] for key in ("far", "recall", "precision", "f1")]
            cells = ["–" if value is None else f"{100 * value:.1f}" for value in values]  # noqa: RUF001
            shown.add_row({"in_sample": "these images", "held_out": "held out (5 folds, 20 times)"}[name], *cells)
    console.print(shown)
    if entry.rule.name not in ("far", "any", "recall"):
        console.print(
            "The first line is the best on these images and too good for others; --alpha makes a promise.",
            highlight=False,
        )
    if found["prevalence"] is not None:
        inside, share = found["in_sample"], found["prevalence"]
        precision = precision_at(inside["recall"], inside["far"], share)
        console.print(
            f"{100 * inside['far']:.2g} % false alarms, {100 * inside['recall']:.3g} % recall and {100 * share:g} % "
            f"defects are a precision of {100 * precision:.2g} %.",
            highlight=False,
        )


def evaluation(
    console: Console,
    class_name: str,
    entry: ClassEntry,
    good: Sequence[Seen],
    held_out: Sequence[Seen],
    bad: Sequence[Seen],
    groups: Sequence[str] | None,
    seed: int,
) -> list[str]:
    """Print and return, as HTML, random splits, held-out rates, recall by folder and the reliability plot."""
    scores = np.asarray([one.score for one in good], dtype=np.float32)
    parts = [heading("Does it keep its promise?")]
    parts += say_splits(console, class_name, scores, groups, seed)
    others = np.asarray([one.score for one in held_out], dtype=np.float32)
    if len(others):
        parts += held_out_parts(console, class_name, entry, others)
    if bad:
        parts.append(_recall(console, entry, bad))
    return parts


def say_splits(
    console: Console, class_name: str, scores: Any, groups: Sequence[str] | None = None, seed: int = 0
) -> list[str]:
    """Print and return, as HTML, what random splits of normal images into calibration and test do."""
    rows = split_rows(class_name, np.asarray(scores, dtype=np.float32), groups, seed)
    if not rows:
        said = f"'{class_name}': too few good images for random splits; half of them must allow an alarm."
        return [_warn(console, said)]
    shown = Table("alpha", "promised %", "measured %", "of splits %", "expected %", title_justify="left")
    shown.title = f"200 random splits of '{class_name}': half of the good images calibrate, half are judged"
    for row in rows:
        cells = [f"{float(value or 0):.3g}" for value in row[1:2] + row[4:]]
        shown.add_row(*cells[:3], f"{cells[3]} to {cells[4]}", f"{cells[5]} to {cells[6]}")
    console.print(shown)
    parts = [table(_COLUMNS, rows, "200 random splits: half of the good images calibrate, half are judged.")]
    for row in rows:
        if not float(row[8] or 0) <= float(row[5] or 0) <= float(row[9] or 0):
            said = f"At alpha {float(row[1] or 0):g}, {float(row[5] or 0):.3g} % is outside the band. {REASONS}"
            parts.append(_warn(console, said))
    return parts


def held_out_parts(console: Console, class_name: str, entry: ClassEntry, others: Any) -> list[str]:
    """Print and return, as HTML, what happens to good images that took no part."""
    found = held_out_rate(entry.calibration, entry.k, others, entry.threshold)
    text = (
        f"Held out, '{class_name}': {found.alarms} of {found.m} good images alarm, {100 * found.rate:.3g} % "
        f"(95 % interval {100 * found.low:.2g} to {100 * found.high:.2g} %)"
    )
    if entry.k is not None:
        text += f", promised {100 * entry.k / (entry.calibration.n + 1):.3g} %"
    if entry.alpha is not None and entry.rule.name == "far":
        text += f"; alpha {'lies' if found.low <= entry.alpha <= found.high else 'does not lie'} inside"
    console.print(f"{text}.", highlight=False)
    parts = [paragraph(f"{text}.")]
    if not found.expected:
        parts.append(_warn(console, f"That is outside what chance allows (99.9 %). {REASONS}"))
    curve = reliability(entry.calibration, others)
    share = curve.alpha.tolist()
    parts.append(
        lines(
            {
                "held out": (share, curve.share.tolist()),
                "exact": ([0.0, 1.0], [0.0, 1.0]),
                "95 % band, low": (share, curve.low.tolist()),
                "95 % band, high": (share, curve.high.tolist()),
            },
            "alpha",
            "share of held-out good images with p <= alpha",
        )
    )
    return parts


def split_rows(class_name: str, scores: Any, groups: Sequence[str] | None, seed: int) -> list[list[str | float | None]]:
    """Return the table alpha x class of random splits."""
    n = len(set(groups) if groups is not None else scores) // 2
    found: list[list[str | float | None]] = []
    for alpha in _ALPHAS:
        one = split_rates(scores, alpha, n, groups, seed=seed)
        if one is not None:
            shares = (one.promised, one.mean, one.low, one.high, one.promised_low, one.promised_high)
            found.append([class_name, alpha, float(one.n), float(one.m), *(100 * share for share in shares)])
    return found


def write_page(path: Path, class_name: str, entry: ClassEntry, highest: Sequence[Seen], parts: Sequence[str]) -> Path:
    """Write the page of a calibration and return its path."""
    figures = [
        picture(smaller(load_rgb(one.path), 160), f"{one.score:.5g} {PurePath(one.path).name}") for one in highest
    ]
    whole = page(
        f"Calibration of '{class_name}'",
        [
            paragraph(f"{promise_of(entry)}."),
            heading("The highest scores among the good parts"),
            paragraph(
                "Are these good? If not, take them out and calibrate again: the card would miss defects.", "note"
            ),
            pictures(figures),
            *parts,
        ],
    )
    path.write_text(whole, encoding="utf-8")
    return path


def _recall(console: Console, entry: ClassEntry, bad: Sequence[Seen]) -> str:
    """The share of defects found, by the folder they lie in."""
    folders: dict[str, list[int]] = {}
    for one in bad:
        folders.setdefault(PurePath(one.path).parent.name, []).append(entry.label(one.score))
    rows: list[list[str | float | None]] = [
        [name, float(len(found)), 100 * float(np.mean(found))] for name, found in sorted(folders.items())
    ]
    shown = Table("defect", "images", "found %")
    for name, number, share in rows:
        shown.add_row(str(name), f"{number:.0f}", f"{share:.1f}")
    console.print(shown)
    return table(("defect", "images", "found %"), rows, "Recall by folder.")


def _warn(console: Console, text: str) -> str:
    console.print(f"[yellow]{text}[/yellow]", highlight=False)
    return paragraph(text, "note")
