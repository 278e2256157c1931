"""A parser of arguments whose complaints are one sentence, as any other error of a command is."""

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong and where to read on, instead of all that there is.

    Args:
        prog: The command.
        description: What it does, the docstring of its module.
        **options: Of ``argparse.ArgumentParser``.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, **options: Any) -> None:
        super().__init__(prog, description=description, **options)

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"zsad: error: {message[:1].upper()}{message[1:]} (see '{self.prog} --help').\n")
