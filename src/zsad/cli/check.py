"""``zsad check``: one cell of a benchmark again, and whether its numbers are the same."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from zsad.benchmark.grid import Cell, DataSpec, MethodSpec
from zsad.benchmark.run import Options, Runner
from zsad.cli.benchmark import read_cell


def main(arguments: Sequence[str]) -> int:
    """Run ``zsad check CELL.json``: compute the cell again and compare; return 1 if a value differs."""
    checker = argparse.ArgumentParser(
        prog="zsad check",
        description="Compute one cell of a benchmark again from its JSON file and compare the numbers.",
    )
    checker.add_argument("cell", type=Path, help="a file below DIR/cells")
    checker.add_argument("--tolerance", type=float, default=1e-6, help="in units of the metric (default: %(default)s)")
    checker.add_argument("--device", default="auto")
    args = checker.parse_args(arguments)
    if not args.cell.is_file():
        raise FileNotFoundError(f"No file '{args.cell}'; cells lie below DIR/cells/<method>/<data>/.")
    kept = read_cell(args.cell)
    if "error" in kept or "run" not in kept:
        raise ValueError(f"'{args.cell}' holds no result: {kept.get('error', 'not a cell of zsad benchmark')}.")
    run = kept["run"]
    cell = Cell(MethodSpec(**kept["method"]), DataSpec(**kept["data"]), kept["class"], kept["seed"])
    options = Options(
        out=args.cell.parents[3],
        train=[DataSpec(**one) for one in run["train"]],
        device=args.device,
        **{key: run[key] for key in ("backbone", "epochs", "mode", "precision", "batch_size", "bootstrap", "fuse")},
    )
    again = Runner(options).compute(cell)
    differences = {name: _difference(value, again["metrics"].get(name)) for name, value in kept["metrics"].items()}
    same = all(value <= args.tolerance for value in differences.values()) and set(kept["metrics"]) == set(
        again["metrics"]
    )
    console = Console()
    for name, value in differences.items():
        console.print(f"{name:<16} {kept['metrics'][name]} -> {again['metrics'].get(name)}  difference {value:.2e}")
    for what in ("backbone", "versions", "git", "device"):
        if kept.get(what) != again.get(what):
            console.print(f"{what} differs: {kept.get(what)} -> {again.get(what)}", soft_wrap=True)
    console.print("same numbers" if same else f"different numbers (tolerance {args.tolerance:g})")
    return 0 if same else 1


def _difference(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return abs(one - other)
