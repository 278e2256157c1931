"""Compute one cell of a benchmark again from its JSON file and compare the numbers."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from zsad.benchmark.check import check_cell
from zsad.cli.arguments import Parser


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``zsad check``."""
    result = Parser("zsad check", __doc__)
    result.add_argument("cell", type=Path, help="a file below DIR/cells")
    result.add_argument("--tolerance", type=float, default=1e-6, help="in units of the metric (default: %(default)s)")
    result.add_argument("--device", default="auto")
    result.add_argument(
        "--root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of the data, then of each auxiliary data set: a file never says which folder is read",
    )
    return result


def main(arguments: Sequence[str]) -> int:
    """Run ``zsad check CELL.json``; return 1 if a value differs."""
    args = parser().parse_args(arguments)
    found = check_cell(args.cell, args.device, args.root)
    console = Console()
    kept, again = found.kept, found.again
    for name, value in found.differences.items():
        console.print(f"{name:<16} {kept['metrics'][name]} -> {again['metrics'].get(name)}  difference {value:.2e}")
    for what in found.circumstances:
        console.print(f"{what} differs: {kept.get(what)} -> {again.get(what)}", soft_wrap=True)
    same = found.same(args.tolerance)
    console.print("same numbers" if same else f"different numbers (tolerance {args.tolerance:g})")
    return 0 if same else 1
