"""Write a method that works, and its test, for you to replace what is inside."""

import argparse
import keyword
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from rich.console import Console

from zsad.cli.arguments import Parser


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``zsad new``."""
    result = Parser("zsad new", __doc__)
    result.add_argument("what", choices=("method",))
    result.add_argument("name", help="name of the class, as the paper spells it, e.g. MyMethod")
    result.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="of the module (default: here)")
    result.add_argument("--tests", type=Path, metavar="DIR", help="of the test (default: as --out)")
    return result


def main(arguments: Sequence[str]) -> int:
    """Write the two files.

    Raises:
        ValueError: The name is no name of a class.
        FileExistsError: A file is there already; nothing is written over.
    """
    args = parser().parse_args(arguments)
    if not args.name.isidentifier() or keyword.iskeyword(args.name):
        raise ValueError(f"'{args.name}' cannot name a class: letters, digits and underscores, no digit in front.")
    module = args.name.lower()
    inside = args.out.resolve().parts[-2:] == ("zsad", "methods")
    words = {"NAME": args.name, "MODULE": f"zsad.methods.{module}" if inside else module}
    targets = {
        "method": args.out / f"{module}.py",
        "test_method": (args.tests or args.out) / f"test_{module}.py",
    }
    for target in targets.values():
        if target.exists():
            raise FileExistsError(f"'{target}' is there already; nothing was written.")
    for template, target in targets.items():
        text = (files("zsad.cli") / "templates" / f"{template}.py.txt").read_text(encoding="utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(text).substitute(words), encoding="utf-8")
    console = Console()
    console.print(f"{targets['method']} and {targets['test_method']}. Try: pytest {targets['test_method']}")
    console.print(
        f"One line in src/zsad/methods/__init__.py makes '{module}' known to every command."
        if inside
        else f"From Python: from {module} import {args.name}; {args.name}(backbone='zsad-mini')."
    )
    return 0
