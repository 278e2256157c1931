"""``settings.json``: what the rows of a folder depend on, so that a run is continued only as it was begun."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsad.inference.lock import naming_disk
from zsad.inference.rows import FORMAT

NOT_COMPARED = frozenset({"format", "base", "roots", "scale", "page"})
"""Settings that a run may find out or extend by itself."""


class SettingsError(ValueError):
    """A folder holds the rows of a run with other settings, or of another format."""


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of a folder of rows; None if it holds neither settings nor rows.

    Raises:
        SettingsError: They are missing, damaged or of another format while there are rows; nothing is changed.
    """
    path, rows = folder / "settings.json", folder / "scores.jsonl"
    has_rows = rows.exists() and rows.stat().st_size > 0
    way_out = "Nothing was changed: use another folder, or --fresh to start over."
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if has_rows:
            raise SettingsError(f"'{folder}' holds rows, but no settings.json says of what run. {way_out}") from None
        return None
    except UnicodeDecodeError:
        text = ""
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        if has_rows:
            raise SettingsError(
                f"'{path}' is empty or damaged, so nobody knows how the rows beside it came about. {way_out}"
            )
        return None
    if settings.get("format") != FORMAT:
        found = settings.get("format", 1)
        raise SettingsError(
            f"'{folder}' holds rows of format {found!r}; this zsad continues format {FORMAT}. {way_out}"
        )
    return settings


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a folder, whole or not at all."""
    path = folder / "settings.json"
    replace(path, json.dumps({"format": FORMAT, **settings}, indent=2, allow_nan=False) + "\n")


def compare(folder: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise if rows computed with these settings must not stand beside the earlier ones.

    Raises:
        SettingsError: It names what differs, then and now.
    """
    earlier, now = (json.loads(json.dumps(values)) for values in (earlier, now))
    names = {*earlier, *now} - NOT_COMPARED
    changed = sorted(name for name in names if earlier.get(name) != now.get(name))
    if not changed:
        return
    differences = "; ".join(f"{name}: {earlier.get(name)!r} then, {now.get(name)!r} now" for name in changed)
    relabel = ""
    if changed == ["threshold"] and now.get("threshold") is not None:
        relabel = f"'zsad relabel {folder} --threshold {now['threshold']:g}' changes the labels without scoring again. "
    if changed == ["calibration"] and now.get("calibration") is not None:
        relabel = f"'zsad relabel {folder} --calibration CARD' gives the labels of a card without scoring again. "
    raise SettingsError(
        f"'{folder}' holds the rows of a run with other settings ({differences}). {relabel}"
        f"Use another folder, or --fresh to start over."
    )


def replace(path: Path, text: str) -> None:
    """Write a text file whole or not at all, on the disk when this returns."""
    part = path.with_name(f"{path.name}.part")
    with naming_disk(path):
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
