"""Steps with a command each: run as the command line runs them, and told on the page with what came out."""

import contextlib
import io
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from zsad.report import page


@dataclass(frozen=True)
class Step:
    """One step of the story.

    Args:
        title: Heading, without its number.
        text: What happens and why, for someone who sees it for the first time.
        commands: Each a program, ``zsad`` or ``python``, and its arguments.
        tell: Returns parts of the page, from what the commands left; called after them.
        needs: What to install where the step cannot run without, e.g. ``"zsad[onnx]"``; its modules are ``modules``.
        modules: Modules without which the step is left out.
    """

    title: str
    text: str
    commands: Sequence[Sequence[str]]
    tell: Callable[[], list[str]]
    needs: str = ""
    modules: Sequence[str] = ()

    @property
    def lines(self) -> list[str]:
        """The commands as one types them."""
        return [shlex.join(command) for command in self.commands]


def tell(steps: Sequence[Step], console: Console) -> Iterator[str]:
    """Run the steps one after the other, and yield their parts of the page.

    Raises:
        RuntimeError: A command did not end well.
    """
    for number, step in enumerate(steps, start=1):
        console.print(f"[bold]{number}. {step.title}[/bold]", highlight=False)
        for line in step.lines:
            console.print(f"   {line}", soft_wrap=True, highlight=False, markup=False)
        yield page.heading(f"{number}. {step.title}")
        yield page.paragraph(step.text)
        yield from map(page.command, step.lines)
        if missing := [name for name in step.modules if not _is_here(name)]:
            said = f"Left out: {', '.join(missing)} is not installed; pip install {step.needs!r} brings it."
            console.print(f"   {said}", soft_wrap=True, highlight=False)
            yield page.paragraph(said, "note")
            continue
        start = time.perf_counter()
        said = "\n\n".join(map(run, step.commands))
        seconds = time.perf_counter() - start
        yield page.details(f"What it says ({seconds:.1f} s)", page.output(said))
        yield from step.tell()


def run(command: Sequence[str]) -> str:
    """Return what a command prints; those of ``zsad`` run in this process.

    Raises:
        RuntimeError: It ends with another status than 0.
    """
    from zsad.cli.main import main

    program, *arguments = command
    if program == "python":
        done = subprocess.run(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        status, said = done.returncode, done.stdout.strip()
    else:
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            status = main(arguments)
        said = heard.getvalue().strip()
    if status:
        raise RuntimeError(f"{shlex.join(command)} ended with status {status}: {said}")
    return said


def _is_here(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
