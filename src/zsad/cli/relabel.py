"""Give every row in the folder of a run of 'zsad score' another label; scores and heat maps stay.

The run can be continued with the new threshold.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from zsad.cli.arguments import Parser
from zsad.decision import Card
from zsad.inference.after_run import finish, write_fdr
from zsad.inference.audit import Audit
from zsad.inference.recalibrate import ByCard
from zsad.inference.relabel import all_rows, by_threshold, relabel
from zsad.inference.settings import read_settings


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = Parser("zsad relabel", __doc__)
    made.add_argument("run", type=Path, metavar="RUN", help="the folder that 'zsad score' wrote with --out")
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--threshold", type=float, help="label an image 1 from this score on")
    which.add_argument("--calibration", type=Path, metavar="CARD", help="labels and p-values of a card of that model")
    made.add_argument("--fdr", type=float, metavar="Q", help="with a card: write fdr.csv, where a share Q is false")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0."""
    args = parser().parse_args(arguments)
    with Audit(args.run, ("zsad", "relabel", *arguments)):
        return _relabel(args)


def _relabel(args: argparse.Namespace) -> int:
    if args.calibration is None:
        if args.fdr is not None:
            raise ValueError(f"--fdr {args.fdr:g} needs p-values: add --calibration CARD.")
        new = {"threshold": args.threshold, "calibration": None}
        rows, other = relabel(args.run, by_threshold(args.threshold), new)
    else:
        card = Card.load(args.calibration)
        by_card = ByCard(card, args.run, read_settings(args.run) or {})
        rows, other = relabel(args.run, by_card, by_card.settings)
        if by_card.without:
            print(
                f"{by_card.without} images have no regions now: those of the card need their maps; score with it, "
                f"or with --maps, to have them."
            )
        if args.fdr is not None:
            n = card.entry(by_card.class_name).calibration.n
            path, alarms, needed = write_fdr(args.run, all_rows(args.run / "scores.jsonl"), args.fdr, n)
            print(f"{alarms} alarms in {path}; with {n} calibration images it takes {needed} top scores to alarm.")
    finish(args.run)
    print(f"{rows} rows in {args.run / 'scores.csv'} and scores.jsonl; {other} have another label now.")
    return 0
