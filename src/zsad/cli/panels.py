"""What ``zsad score`` and its like do for a method that compares images with each other: their panel, and its bars."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

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
        classes: What it shows; each has a panel of its own.
        console: For remarks.

    Raises:
        PanelError: A panel is given to a method that has none, or for several classes, or does not fit.
        FileNotFoundError: There is no such panel.
    """

    def __init__(
        self, args: argparse.Namespace, model: BasePredictor, files: FileList, classes: Sequence[str], console: Console
    ) -> None:
        self._console = console
        self._folders: list[FolderPanel] = []
        self._panels: dict[str, Panel] = {}
        self._fresh: bool = args.fresh
        method = getattr(model, "method", None)  # an exported model has none, and is told so beforehand
        if not isinstance(method, Transductive):
            if args.panel is not None:
                raise PanelError(f"--panel is for methods that compare images; {type(method).__name__} has no panel.")
            return
        if isinstance(args.out, str) and args.panel is None:
            raise PanelError(f"A panel is drawn into a folder, --out {args.out} is an address: add --panel FILE.")
        say = lambda text: console.print(text, highlight=False)  # noqa: E731
        if args.panel is not None and len(classes) > 1:
            raise PanelError(f"--panel '{args.panel}' holds images of one class, to be scored are {list(classes)}.")
        folders = [_panel_of(method, files, args, classes, name, say) for name in classes]
        if args.panel is not None:
            self._panels[classes[0]] = folders[0].load(Path(args.panel))
        elif not method.shots and method.references is None:
            self._folders = folders

    @property
    def draws(self) -> bool:
        """Whether panels are drawn from what is scored."""
        return bool(self._folders)

    def settings(self) -> dict[str, str]:
        """Return what rows depend on."""
        for panel in self._panels.values():
            return {"panel": panel.digest[:16]}
        return {"panel": "drawn", "note": SCORES_DEPEND} if self._folders else {}

    def prepare(self, bars: Bars) -> None:
        """Make the folder's own panel, or go on with it, once the folder is this run's."""
        for folder in self._folders:
            if self._fresh:
                folder.forget()
            self._panels[folder.class_name] = folder.make(PanelBars(bars))

    def report(self) -> None:
        """Say what the scores depend on."""
        for name, panel in self._panels.items():
            drawn = f"{SCORES_DEPEND} " if panel.drawn else ""
            whose = f" of '{name}'" if len(self._panels) > 1 else ""
            spread = (
                ""
                if panel.error is None
                else f" With other images as the panel they would move by about {panel.error:.2g}."
            )
            self._console.print(f"{drawn}The panel{whose} holds {len(panel)} images.{spread}", highlight=False)


def _panel_of(
    method: Transductive,
    files: FileList,
    args: argparse.Namespace,
    classes: Sequence[str],
    name: str,
    say: Callable[[str], object],
) -> FolderPanel:
    if len(classes) == 1:
        return FolderPanel(method, files, Path(args.out), name, say)
    own = [one for one in files if (one.class_name or args.class_name) == name]
    return FolderPanel(method, own, args.out / "panels" / quote(name, safe=" "), name, say)
