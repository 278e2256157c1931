"""The arguments of ``zsad score`` and what their texts mean."""

import argparse
import os
from pathlib import Path

from zsad.cli.cluster_options import add_cluster_options, folder_or_address
from zsad.cli.explain import add_explain_option
from zsad.cli.exported import add_exported_options
from zsad.cli.look_options import add_look_options
from zsad.cli.model_options import add_model_options, model_parser
from zsad.images.levels import read_count
from zsad.images.overlay import AUTO, MAP_FORMATS, Scale


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = model_parser(
        "zsad score",
        "Score every image under the given paths; write scores.csv, scores.jsonl and heat maps as it "
        "goes.\nStarted again with the same settings, it goes on where it stopped.",
        "Scores rank images of one kind of product; there is no universal threshold.\n"
        "Exit status: 0, also if some files have a row with an error; 1 if nothing could be scored; 2 for an error.",
    )
    made.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image files, folders (to every depth), patterns and manifests (CSV, JSON lines, Parquet with path, "
        "class_name, roi, ignore_mask, group)",
    )
    made.add_argument(
        "--out",
        required=True,
        type=folder_or_address,
        metavar="DIR",
        help="folder for the results; never an input; with --engine ray also an address (s3://...)",
    )
    add_model_options(made)
    add_exported_options(made)
    add_look_options(made)
    made.add_argument(
        "--calibration",
        type=Path,
        metavar="CARD",
        help="of 'zsad calibrate': labels, p-values, regions, warnings; 'shipped': the checkpoint's own",
    )
    made.add_argument(
        "--panel", metavar="FILE", help="compare with these images, a panel.safetensors of another run (MuSc)"
    )
    add_explain_option(made)
    made.add_argument("--threshold", type=float, help="label an image 1 from this score on; without it, no labels")
    made.add_argument("--relative", action="store_true", help="write relative.csv: rank and robust z in this folder")
    made.add_argument("--fdr", type=float, metavar="Q", help="with a card: write fdr.csv, where a share Q is false")
    add_reading(made)
    _add_heat_maps(made)
    _add_outputs(made)
    _add_watching(made)
    made.add_argument("--batch-size", type=int, default=8, help="images per forward pass (default: %(default)s)")
    made.add_argument(
        "--num-workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        help="threads that read images ahead, and write behind",
    )
    add_cluster_options(made)
    made.add_argument(
        "--block", type=int, metavar="N", help="with --engine ray: images that become durable together (default: 1000)"
    )
    made.add_argument("--device", default="auto", help="'auto', 'cpu', 'cuda:0', 'mps' (default: %(default)s)")
    made.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out images whose path matches, e.g. '*/ground_truth/*' or '*_mask.png'; may be repeated",
    )
    made.add_argument("--strict", action="store_true", help="stop at the first file that cannot be read or scored")
    made.add_argument("--hash", action="store_true", help="keep a digest of each file: its content says if it changed")
    made.add_argument("--prune", action="store_true", help="drop rows of files that are gone or no longer asked for")
    made.add_argument("--fresh", action="store_true", help="start over, whatever is in DIR from an earlier run")
    return made


def _add_watching(made: argparse.ArgumentParser) -> None:
    made.add_argument("--watch", action="store_true", help="go on with files that arrive, until Ctrl-C or SIGTERM")
    made.add_argument(
        "--settle", type=float, default=1.0, metavar="S", help="seconds without a change before a file is read"
    )
    made.add_argument("--polling", action="store_true", help="compare folders: network shares send no events")
    made.add_argument(
        "--on-anomaly", metavar="CMD", help="run this, without a shell, for each label 1: the row as JSON on its input"
    )


def add_reading(made: argparse.ArgumentParser) -> None:
    """Add how files are read, which volumes stand for, and how large they may be."""
    made.add_argument(
        "--slices",
        metavar="all|every:N",
        help="take volumes and files of several pictures apart: NIfTI, DICOM of several frames, pages of a TIFF",
    )
    made.add_argument(
        "--window",
        type=read_window,
        metavar="LOW,HIGH",
        help="grey levels that become black and white in pictures of more than 8 bits and of floats, in place of a "
        "DICOM header's; signed and 32-bit pictures need it",
    )
    made.add_argument("--bits", type=int, metavar="N", help="another way to say it: 12 is --window 0,4095")
    made.add_argument(
        "--max-pixels",
        type=read_count,
        default=100_000_000,
        metavar="N",
        help="larger files are errors (default: 100M)",
    )
    made.add_argument(
        "--fast-decode",
        action="store_true",
        help="decode large JPEG photos at a half to an eighth of their size; scores differ a little",
    )


def _add_heat_maps(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--scale",
        default=AUTO,
        metavar="LOW,HIGH",
        help="values of the first and the last colour; 'auto' (default): what the first 50 images use, one scale for "
        "the run; 'fixed': the method's range; 'image': each map's own",
    )
    made.add_argument("--no-overlays", action="store_true", help="write no heat maps")
    made.add_argument("--no-page", action="store_true", help="write no index.html")
    made.add_argument("--overlay-size", type=int, default=512, metavar="PIXELS", help="longer side (default: 512)")


def _add_outputs(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--format", choices=("csv", "parquet"), default="csv",
        help="'parquet' writes scores.parquet as well when the run ends (zsad[parquet])",
    )  # fmt: skip
    made.add_argument("--maps", choices=MAP_FORMATS, help="write raw maps, to evaluate, relabel or cut regions later")
    made.add_argument(
        "--map-size", type=int, metavar="N", help="longer side of these maps (default: the model's own size)"
    )
    made.add_argument("--mm-per-pixel", type=float, metavar="MM", help="index.html then tells areas in mm2 as well")


def read_scale(text: str) -> Scale | str:
    """Return what ``--scale`` means.

    Raises:
        ValueError: It is neither two numbers in ascending order nor one of the words.
    """
    if text == "fixed":
        return None
    if text in ("image", AUTO):
        return text
    if (limits := _two(text)) is None:
        raise ValueError(f"--scale must be 'auto', 'fixed', 'image' or LOW,HIGH with LOW < HIGH, got '{text}'.")
    return limits


def read_window(text: str) -> tuple[float, float]:
    """Return what ``--window`` means.

    Raises:
        argparse.ArgumentTypeError: It is not two numbers in ascending order.
    """
    if (limits := _two(text)) is None:
        raise argparse.ArgumentTypeError(f"must be LOW,HIGH with LOW < HIGH, got '{text}'.")
    return limits


def _two(text: str) -> tuple[float, float] | None:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return (low, high) if low < high else None
