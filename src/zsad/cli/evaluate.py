"""Compute image and pixel metrics of a folder of anomaly maps against a folder of masks.

Maps are npy, tiff or png files, whatever program wrote them.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from zsad.cli.arguments import Parser
from zsad.cli.calibration_report import say_splits
from zsad.cli.result_table import print_result
from zsad.metrics import DEFAULT_METRICS
from zsad.metrics.folder import evaluate_folder, find_items, read_map, read_mask


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    result = Parser("zsad evaluate", __doc__)
    result.add_argument("--maps", type=Path, required=True, metavar="DIR", help="one file per image, larger is worse")
    result.add_argument(
        "--masks", type=Path, required=True, metavar="DIR", help="same names; everything but 0 is defect"
    )
    result.add_argument("--scores", type=Path, metavar="CSV", help="columns path, score and perhaps label")
    result.add_argument("--class-name", help="of maps that lie directly in the folder")
    result.add_argument("--missing-mask", choices=("error", "normal"), default="error", help="(default: %(default)s)")
    result.add_argument(
        "--resize", choices=("error", "mask", "map"), default="error", help="where sizes differ (default: %(default)s)"
    )
    result.add_argument("--mode", choices=("binned", "exact"), default="binned", help="(default: %(default)s)")
    result.add_argument("--score-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of the maps, if known")
    result.add_argument("--metrics", nargs="+", default=list(DEFAULT_METRICS), metavar="NAME")
    result.add_argument("--fpr-limit", type=float, default=0.3, help="of AUPRO (default: %(default)s)")
    result.add_argument("--connectivity", type=int, choices=(4, 8), default=8, help="(default: %(default)s)")
    result.add_argument("--bootstrap", type=int, default=0, metavar="N", help="resampled sets of images for intervals")
    result.add_argument(
        "--calibration", action="store_true", help="false alarms of 200 random splits of the normal images, by alpha"
    )
    result.add_argument(
        "--json", type=Path, metavar="FILE", help="write the result there; - prints it instead of a table"
    )
    result.add_argument(
        "--curves", type=Path, metavar="DIR", help="write the curves there: curves.json and a picture per kind"
    )
    return result


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(arguments)
    to_screen = str(args.json) == "-"
    result = evaluate_folder(
        args.maps,
        args.masks,
        args.scores,
        class_name=args.class_name,
        missing_mask=args.missing_mask,
        resize=args.resize,
        mode=args.mode,
        score_range=None if args.score_range is None else (args.score_range[0], args.score_range[1]),
        metrics=args.metrics,
        fpr_limit=args.fpr_limit,
        connectivity=args.connectivity,
        bootstrap=args.bootstrap,
        curves=args.curves is not None,
        progress=not to_screen,
    )
    if args.curves is not None:
        result.write_curves(args.curves)
    if to_screen:
        print(json.dumps(result.to_dict(), indent=1))
        return 0
    if args.json is not None:
        args.json.write_text(json.dumps(result.to_dict(), indent=1), encoding="utf-8")
    console = Console()
    print_result(result, console)
    if args.calibration:
        _calibration(console, args)
    if result.pixel_bound:
        console.print(f"pixel values are exact to {result.pixel_bound:.1e}")
    return 0


def _calibration(console: Console, args: argparse.Namespace) -> None:
    """Show what calibrations with a half of each class's normal images would do to the other half."""
    normal: dict[str, list[float]] = {}
    for item in find_items(args.maps, args.masks, args.scores, args.class_name, args.missing_mask):
        label = item.label
        if label is None:
            label = int(item.mask_path is not None and bool(read_mask(item.mask_path).any()))
        if label == 0:
            score = float(read_map(item.map_path).max()) if item.score is None else item.score
            normal.setdefault(item.class_name, []).append(score)
    if not normal:
        raise ValueError("--calibration needs normal images, and there are none: all of them have defects.")
    for name, scores in normal.items():
        say_splits(console, name, scores)
