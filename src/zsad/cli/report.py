"""Make tables and one HTML page from a results folder."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from zsad.benchmark.report import check_page, compare_methods, write_report
from zsad.benchmark.results import load, summarise
from zsad.benchmark.tables import overview, rows
from zsad.cli.arguments import Parser
from zsad.report.terminal import tables


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``zsad report``."""
    result = Parser("zsad report", __doc__)
    result.add_argument("results", type=Path, metavar="DIR")
    result.add_argument(
        "--out", type=Path, metavar="DIR", help="where report.{md,csv,tex,html} go (default: the results folder)"
    )
    result.add_argument("--note", action="append", default=[], help="sentence on top of the page; may be repeated")
    result.add_argument(
        "--curves", action="store_true", help="ROC and precision-recall curves of the image scores, and their points"
    )
    result.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="only say whether two methods differ, by a paired bootstrap"
    )
    result.add_argument(
        "--resamples", type=int, default=1000, help="draws of the paired comparison (default: %(default)s)"
    )
    result.add_argument("--json", action="store_true", help="print the numbers as one JSON object, not as tables")
    result.add_argument("--check", type=Path, metavar="PAGE", help="compare the Markdown with a committed page")
    result.add_argument(
        "--tolerance", type=float, default=0.5, help="points by which numbers may differ (default: %(default)s)"
    )
    return result


def main(arguments: Sequence[str]) -> int:
    """Run ``zsad report``; return 1 if ``--check`` finds a difference."""
    args = parser().parse_args(arguments)
    console = Console()
    if args.check is not None:
        problem = check_page(args.results, args.check, args.note, args.tolerance)
        if args.json:
            print(json.dumps({"page": str(args.check), "difference": problem}))
            return 1 if problem else 0
        console.print(f"{args.check}: {problem or 'as committed'}", soft_wrap=True, markup=False)
        return 1 if problem else 0
    if args.compare is not None:
        first, second = args.compare
        found = compare_methods(args.results, first, second, args.resamples)
        if args.json:
            print(json.dumps([asdict(one) for one in found]))
        for one in [] if args.json else found:
            console.print(one.sentence, soft_wrap=True, markup=False, highlight=False)
        return 0
    target = write_report(args.results, args.out, args.note, args.resamples, args.curves)
    summaries = summarise(load(args.results))
    if args.json:
        print(json.dumps({"page": str(target), "rows": rows(summaries)}))
        return 0
    for data in dict.fromkeys(one.data for one in summaries):
        heads, body = overview(summaries, data)
        title = f"{data}: mean over classes, per cent"
        numbers = range(1, len(heads))
        console.print(*tables(heads, body, console.width, title, further=True, right=numbers), "", sep="\n")
    console.print(f"Per class, and more to look at: {target}", soft_wrap=True)
    return 0
