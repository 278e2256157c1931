"""``runs.jsonl``: a line per run that says who did what with which model; lines are added and never changed."""

import getpass
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from zsad import __version__
from zsad.inference.lock import naming_disk
from zsad.inference.rows import Row
from zsad.inference.settings import SettingsError, read_settings
from zsad.inference.writer import read_rows

RUNS = "runs.jsonl"
_MODEL = (
    "method", "options", "backbone", "backbone_weights", "learned_parameters", "references", "panel", "precision",
    "runtime",
)  # fmt: skip


class Audit:
    """A run in a folder; its line is written when it ends, also by an interruption or an error.

    Args:
        folder: Of the rows; without rows there is no line.
        command: As it was typed, from ``zsad`` on.
        counts: Counts the rows, where they are not in ``scores.jsonl``.
    """

    def __init__(
        self, folder: Path, command: Sequence[str], counts: Callable[[], Mapping[str, int]] | None = None
    ) -> None:
        self.folder, self.command = folder, list(command)
        self._counts = counts or (lambda: count(read_rows(folder)))
        self._started = _now()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            settings = read_settings(self.folder)
        except SettingsError:  # a folder that the run refused
            return
        if settings is None:
            return
        ended = "done" if kind is None else "interrupted" if issubclass(kind, KeyboardInterrupt) else "error"
        line = {
            "started": self._started,
            "ended": _now(),
            "user": _user(),
            "command": self.command,
            "end": ended,
            "versions": {"zsad": __version__, "python": platform.python_version(), "torch": version("torch")},
            "model": {name: settings.get(name) for name in _MODEL},
            "card": (settings.get("calibration") or {}).get("digest"),
            "threshold": settings.get("threshold"),
            "counts": self._counts(),
        }
        path = self.folder / RUNS
        with naming_disk(path):
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, (json.dumps(line) + "\n").encode())
                os.fsync(file)
            finally:
                os.close(file)


def count(rows: Iterable[Row]) -> dict[str, int]:
    """Return how many rows there are, with a score, with an error, and labelled normal and anomalous."""
    found = dict.fromkeys(("rows", "scored", "errors", "normal", "anomalous"), 0)
    for row in rows:
        found["rows"] += 1
        found["scored"] += row.score is not None
        found["errors"] += row.error is not None
        found["normal"] += row.label == 0
        found["anomalous"] += row.label == 1
    return found


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name, as in some containers
        return None
