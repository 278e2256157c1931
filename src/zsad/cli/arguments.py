"""A parser of arguments whose complaints are one sentence, as any other error of a command is."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong and where to read on, instead of all that there is."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"zsad: error: {message[:1].upper()}{message[1:]} (see '{self.prog} --help').\n")
