"""A command of the user's for every anomalous image: the row goes in as JSON, nothing goes through a shell."""

import shlex
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from typing_extensions import Self

from zsad.inference.rows import Row

PATIENCE = 60.0
"""Seconds after which a command is ended."""


class Hook:
    """Run a command for each row with the label 1, one after another, beside the scoring.

    Args:
        command: Program and arguments, split as a shell would, but run without one.
        tell: Called with a sentence if the command fails; the run goes on.

    Raises:
        ValueError: The command is empty, or a quotation mark is open.
    """

    def __init__(self, command: str, tell: Callable[[str], object]) -> None:
        try:
            self.arguments = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"--on-anomaly '{command}' cannot be split into arguments: {error}.") from error
        if not self.arguments:
            raise ValueError("--on-anomaly needs a command, got an empty one.")
        self._tell = tell
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def __call__(self, rows: Iterable[Row]) -> None:
        """Take rows that are on the disk."""
        for row in rows:
            if row.label == 1:
                self._thread.submit(self._run, row)

    def _run(self, row: Row) -> None:
        program = self.arguments[0]
        try:
            done = subprocess.run(
                self.arguments, input=row.line().encode(), stdout=subprocess.DEVNULL, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            self._tell(f"'{program}' was ended after {PATIENCE:g} s at '{row.path}'.")
        except OSError as error:
            self._tell(f"'{program}' could not be run for '{row.path}': {error.strerror or error}.")
        else:
            if done.returncode:
                self._tell(f"'{program}' ended with status {done.returncode} at '{row.path}'.")
