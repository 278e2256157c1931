"""What is said about adapters that somebody published: their licence, once per process."""

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from zsad.weights.registry import WeightsEntry, table

_told: set[str] = set()


def notice(entry: WeightsEntry) -> str:
    """Return the licences of adapters in one sentence."""
    learned = " and ".join(f"{one.title}, {one.licence}" for one in entry.data)
    return f"{entry.method} with adapters '{entry.name}' (trained on {learned}; code {entry.code_licence})."


def warning(entry: WeightsEntry) -> str | None:
    """Return what is to be said about commercial use, None if the terms permit it."""
    if entry.commercial == "yes":
        return None
    against = [f"{one.title} ({one.licence})" for one in entry.data if one.commercial == "no"]
    if against:
        sets = " and ".join(against)
        return (
            f"The terms of {sets} forbid commercial use of the data; whether adapters that learned from them inherit "
            f"that is a legal question that zsad does not answer. ZSAD_ACCEPT_NONCOMMERCIAL=1 silences this."
        )
    return (
        f"Nobody states the terms of these adapters (code: {entry.code_licence}; files: {entry.weights_licence}): ask "
        f"their authors before commercial use. ZSAD_ACCEPT_NONCOMMERCIAL=1 silences this."
    )


def announce(entry: WeightsEntry, accept_noncommercial: bool = False) -> None:
    """Print the licences of adapters to the error stream, once per process.

    Args:
        entry: The adapters.
        accept_noncommercial: Leave out the sentence about commercial use, as ``ZSAD_ACCEPT_NONCOMMERCIAL=1`` does.
    """
    if entry.name in _told:
        return
    _told.add(entry.name)
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    console.print(notice(entry), markup=False)
    accepted = accept_noncommercial or os.environ.get("ZSAD_ACCEPT_NONCOMMERCIAL", "") not in ("", "0")
    if not accepted and (said := warning(entry)) is not None:
        console.print(said, style="yellow", markup=False)


def notice_of(trained_on: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the licences of a model's adapters as results carry them, None if they are not published ones.

    Args:
        trained_on: What the model says it was trained on.
    """
    names = dict.fromkeys(str(one["adapters"]) for one in trained_on if "adapters" in one)
    entries = [table()[name] for name in names if name in table()]
    parts = [part for one in entries for part in (notice(one), warning(one)) if part is not None]
    return " ".join(part.removesuffix(" ZSAD_ACCEPT_NONCOMMERCIAL=1 silences this.") for part in parts) or None


def seen_before(trained_on: Sequence[Mapping[str, Any]], paths: Iterable[str]) -> str | None:
    """Return a sentence if a user's folder may hold the data that a model learned from, None otherwise.

    Args:
        trained_on: What the model says it was trained on.
        paths: The user's.
    """
    for one in trained_on:
        word = str(one.get("name", "")).partition("_")[0].lower()
        for path in paths:
            if len(word) > 3 and re.search(rf"(?<![a-z]){word}(?![a-z])", path.lower()):
                return (
                    f"'{path}' looks like {one['name']}, which this model was trained on: its scores would look too "
                    f"good. Choose adapters that were trained on other data ('zsad weights list')."
                )
    return None
