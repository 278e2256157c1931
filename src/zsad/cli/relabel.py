"""``zsad relabel``: other labels for the rows of ``zsad score``, without scoring an image again."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from zsad.inference.relabel import by_threshold, relabel


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = argparse.ArgumentParser(
        prog="zsad relabel",
        description="Give every row in the folder of a run of 'zsad score' another label; scores and heat maps stay. "
        "The run can be continued with the new threshold.",
    )
    made.add_argument("run", type=Path, metavar="RUN", help="the folder that 'zsad score' wrote with --out")
    made.add_argument("--threshold", type=float, required=True, help="label an image 1 from this score on")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0."""
    args = parser().parse_args(arguments)
    rows, other = relabel(args.run, by_threshold(args.threshold), {"threshold": args.threshold})
    print(f"{rows} rows in {args.run / 'scores.csv'} and scores.jsonl; {other} have another label now.")
    return 0
