"""What ``zsad score`` and its like do for a method that compares images with each other: their panel, and its bars."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TaskID

from zsad.inference.base import BasePredictor
from zsad.inference.files import FileList
from zsad.inference.folder_panel import FolderPanel
from zsad.methods.base import SCORES_DEPEND
from zsad.methods.musc import Panel, PanelError, Transductive
from zsad.methods.musc.build import Progress


class PanelBars(Progress):
    """The passes of making a panel as bars of a terminal."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, what: str, total: float) -> None:
        """Begin a pass of ``total`` steps."""
        self._task = self._bars.add_task(what, total=total)

    def advance(self, steps: float) -> None:
        """Steps are done."""
        if self._task is not None:
            self._bars.advance(self._task, steps)


class Comparison:
    """The panel of a run from the command line; for other methods it does nothing.

    Args:
        args: With ``panel``, ``out``, ``class_name`` and ``fresh``.
        model: What scores.
        files: What is scored.
        console: For remarks.

    Raises:
        PanelError: A panel is given to a method that has none, or does not fit.
        FileNotFoundError: There is no such panel.
    """

    def __init__(self, args: argparse.Namespace, model: BasePredictor, files: FileList, console: Console) -> None:
        self._console = console
        self._folder: FolderPanel | None = None
        self._panel: Panel | None = None
        self._fresh: bool = args.fresh
        method = getattr(model, "method", None)  # an exported model has none, and is told so beforehand
        if not isinstance(method, Transductive):
            if args.panel is not None:
                raise PanelError(f"--panel is for methods that compare images; {type(method).__name__} has no panel.")
            return
        say = lambda text: console.print(text, highlight=False)  # noqa: E731
        folder = FolderPanel(method, files, args.out, args.class_name, say)
        if args.panel is not None:
            self._panel = folder.load(Path(args.panel))
        elif not method.shots and method.references is None:
            self._folder = folder

    def settings(self) -> dict[str, str]:
        """Return what rows depend on."""
        if self._panel is not None:
            return {"panel": self._panel.digest[:16]}
        return {} if self._folder is None else {"panel": "drawn", "note": SCORES_DEPEND}

    def prepare(self, bars: Bars) -> None:
        """Make the folder's own panel, or go on with it, once the folder is this run's."""
        if self._folder is not None:
            if self._fresh:
                self._folder.forget()
            self._panel = self._folder.make(PanelBars(bars))

    def report(self) -> None:
        """Say what the scores depend on."""
        if self._panel is None:
            return
        drawn = f"{SCORES_DEPEND} " if self._panel.drawn else ""
        error = self._panel.error
        spread = "" if error is None else f" With other images as the panel they would move by about {error:.2g}."
        self._console.print(f"{drawn}The panel holds {len(self._panel)} images.{spread}", highlight=False)
