"""Make scores.csv, scores.jsonl and index.html of the rows that 'zsad score --engine ray' wrote.

Rows come in the order of their paths; 'relabel', 'drift' and the like then work as after a run on one machine.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from zsad.cli.arguments import Parser
from zsad.cli.cluster_options import folder_or_address


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = Parser("zsad collect", __doc__)
    made.add_argument("run", type=folder_or_address, metavar="RUN", help="what the job was given as --out")
    made.add_argument("--into", type=Path, metavar="DIR", help="folder for the files (default: RUN)")
    made.add_argument("--no-page", action="store_true", help="write no index.html")
    made.add_argument(
        "--format", choices=("csv", "parquet"), default="csv", help="'parquet' writes one scores.parquet as well"
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0."""
    args = parser().parse_args(arguments)
    from zsad.scale.collect import collect

    number = collect(args.run, args.into, page=not args.no_page, parquet=args.format == "parquet")
    print(f"{number} rows in {Path(args.into or args.run, 'scores.csv')} and scores.jsonl")
    return 0
