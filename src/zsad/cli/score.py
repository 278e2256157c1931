"""``zsad score``: a score and a heat map for every image of a folder of any size."""

import argparse
import hashlib
import heapq
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from zsad import __version__
from zsad.cli.drift import recalibrate, watch_of
from zsad.cli.explain import OWN, Explanations, add_explain_option
from zsad.cli.model_options import add_model_options, chosen_model
from zsad.cli.panels import Comparison
from zsad.clip.loading import MINI
from zsad.decision import Card
from zsad.decision.drift import Watch
from zsad.images.overlay import Scale
from zsad.inference import Predictor, Result, load_model
from zsad.inference.after_run import write_fdr, write_relative
from zsad.inference.files import FileList
from zsad.inference.identity import model_identity, protocol_identity
from zsad.inference.recalibrate import card_settings
from zsad.inference.rows import Row
from zsad.inference.writer import RowWriter
from zsad.weights import notices

_WORST = 5  # rows shown at the end
_NARROW = 0.1  # share of the scale below which heat maps look all the same


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = argparse.ArgumentParser(
        prog="zsad score",
        description="Score every image under the given paths; write scores.csv, scores.jsonl and heat maps as it goes. "
        "Started again with the same settings, it goes on where it stopped.",
        epilog="Scores rank images of one kind of product; there is no universal threshold.",
    )
    made.add_argument("paths", nargs="+", metavar="PATH", help="image files and folders, walked to every depth")
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    add_model_options(made)
    made.add_argument(
        "--calibration",
        type=Path,
        metavar="CARD",
        help="of 'zsad calibrate': labels, p-values, regions, warnings",
    )
    made.add_argument(
        "--panel", metavar="FILE", help="compare with these images, a panel.safetensors of another run (MuSc)"
    )
    add_explain_option(made)
    made.add_argument("--threshold", type=float, help="label an image 1 from this score on; without it, no labels")
    made.add_argument("--relative", action="store_true", help="write relative.csv: rank and robust z in this folder")
    made.add_argument("--fdr", type=float, metavar="Q", help="with a card: write fdr.csv, where a share Q is false")
    made.add_argument(
        "--scale",
        default="fixed",
        metavar="LOW,HIGH",
        help="values of the first and the last colour; 'fixed' (default) is the method's range, 'image' each map's own",
    )
    made.add_argument("--no-overlays", action="store_true", help="write no heat maps")
    made.add_argument("--overlay-size", type=int, default=512, metavar="PIXELS", help="longer side (default: 512)")
    made.add_argument("--batch-size", type=int, default=8, help="images per forward pass (default: %(default)s)")
    made.add_argument("--num-workers", type=int, default=min(4, os.cpu_count() or 1), help="threads that read images")
    made.add_argument("--device", default="auto", help="'auto', 'cpu', 'cuda:0', 'mps' (default: %(default)s)")
    made.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out images whose path matches, e.g. '*/ground_truth/*' or '*_mask.png'; may be repeated",
    )
    made.add_argument("--strict", action="store_true", help="stop at the first unreadable file")
    made.add_argument("--hash", action="store_true", help="keep a digest of each file: its content says if it changed")
    made.add_argument("--prune", action="store_true", help="drop rows of files that are gone or no longer asked for")
    made.add_argument("--fresh", action="store_true", help="start over, whatever is in DIR from an earlier run")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0, also if some files could not be read: they have a row with their error."""
    args = parser().parse_intermixed_args(arguments)
    console = Console(stderr=True)
    files = FileList(args.paths, args.exclude, avoid=args.out)
    if not len(files):
        raise FileNotFoundError(f"No images under {', '.join(map(repr, args.paths))}.")
    scale = read_scale(args.scale)
    if args.overlay_size < 1:
        raise ValueError(f"--overlay-size must be at least 1 pixel, got {args.overlay_size}.")
    card = None if args.calibration is None else Card.load(args.calibration)
    if card is not None and args.threshold is not None:
        raise ValueError(f"--threshold {args.threshold:g} beside --calibration: the card decides. Take one of them.")
    if card is None and args.fdr is not None:
        raise ValueError(f"--fdr {args.fdr:g} needs p-values: add --calibration CARD.")
    model = load_model(
        **chosen_model(args, card),
        device=args.device,
        batch_size=args.batch_size,
        explain=args.explain == OWN,
    )
    comparison = Comparison(args, model, files, console)
    if card is not None:
        model.use_calibration(card)  # once a panel that was given is there
        entry = card.entry(args.class_name)
        if card.unseen(args.class_name):
            console.print(
                f"The card is pooled and was not made for '{args.class_name}': nothing is promised for this class."
            )
        watch = watch_of(entry)
    if model.method.clip.name == MINI:
        console.print(
            "[yellow]zsad-mini knows synthetic images only: its scores of real images mean nothing. "
            "Leave out --backbone for real work.[/yellow]"
        )
    explanations = Explanations(args.explain, model, args.out, args.class_name, args.overlay_size)
    if said := notices.seen_before(getattr(model.method, "trained_on", ()), args.paths):
        console.print(said, style="yellow", markup=False)
    settings = _settings(args, model) | comparison.settings()
    summary = Summary()
    opened = RowWriter(args.out, settings, args.batch_size, args.fresh, files, args.prune, content=args.hash)
    with opened as writer, _progress(console) as bar:
        _tell_changes(console, writer)
        comparison.prepare(bar)
        if card is not None:
            watch.add(row.score for row in writer.rows() if row.score is not None)  # told before, or in time
        task = bar.add_task("scoring", total=len(files), completed=len(writer))
        todo = (found for found in files if not writer.has(found.real))
        for batch in model.batches(
            todo,
            args.class_name,
            threshold=args.threshold,
            size=args.overlay_size,
            strict=args.strict,
            num_workers=args.num_workers,
            content=args.hash,
        ):
            batch = explanations.of(batch)
            if not args.no_overlays:
                _save_overlays(batch, args.out, scale)
            writer.write(Row.of(result, path=writer.shown(str(result.image_path))) for result in batch)
            if card is not None:
                _watch(console, watch, args, batch)
            summary.add(batch)
            bar.advance(task, len(batch))
        _report(console, writer, model, summary, scale if not args.no_overlays else "image")
        comparison.report()
        if args.relative:
            console.print(f"{write_relative(args.out, writer.rows())}: places within this folder, no labels.")
        if args.fdr is not None and card is not None:
            path, alarms, needed = write_fdr(args.out, writer.rows(), args.fdr, entry.calibration.n)
            console.print(
                f"{alarms} alarms in {path}; with {entry.calibration.n} calibration images an alarm needs {needed} of "
                f"the highest scores."
            )
    return 0


def _watch(console: Console, watch: Watch, args: argparse.Namespace, batch: Sequence[Result]) -> None:
    """Warn where the scores of production leave those of the card."""
    for window in watch.add(result.pred_score for result in batch if result.error is None):
        message = watch.message(window, args.class_name, recalibrate(args.calibration, args.class_name))
        console.print(f"[yellow]{escape(message)}[/yellow]", highlight=False)


class Summary:
    """The range of the maps of this run."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")

    def add(self, batch: Sequence[Result]) -> None:
        """Take the results of a batch into account."""
        for result in batch:
            if result.error is None:
                self.low = min(self.low, float(result.anomaly_map.min()))
                self.high = max(self.high, float(result.anomaly_map.max()))


def read_scale(text: str) -> Scale:
    """Return what ``--scale`` means.

    Raises:
        ValueError: It is neither two numbers in ascending order nor one of the words.
    """
    if text == "fixed":
        return None
    if text == "image":
        return "image"
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise ValueError(f"--scale must be 'fixed', 'image' or LOW,HIGH with LOW < HIGH, got '{text}'.")
    return low, high


def overlay_path(folder: Path, image_path: str) -> Path:
    """Return where the heat map of an image goes: its name, with a digest of its path, in one of 256 folders."""
    digest = hashlib.blake2b(os.fsencode(image_path), digest_size=6).hexdigest()
    stem = Path(image_path).stem.encode("utf-8", "replace").decode("utf-8")[:80]
    return folder / "overlays" / digest[:2] / f"{stem}-{digest}.jpg"


def _save_overlays(batch: Sequence[Result], folder: Path, scale: Scale) -> None:
    for result in batch:
        if result.error is None:
            result.save(overlay_path(folder, str(result.image_path)), scale)


def _settings(args: argparse.Namespace, model: Predictor) -> dict[str, Any]:
    """Return what rows and heat maps depend on; the paths are left out, so that a folder may grow."""
    return {
        "zsad": __version__,
        # by content: a file may be replaced by another of the same name
        **model_identity(model.method, args.class_name, model.precision),
        "protocol": protocol_identity(model.method),
        "calibration": None if model.calibration is None else card_settings(model.calibration, args.class_name),
        "adapters": getattr(model.method, "licence_notice", None),
        "class_name": args.class_name,
        "threshold": args.threshold,
        "explain": args.explain,
        "overlays": None if args.no_overlays else {"scale": args.scale, "size": args.overlay_size},
    }


def _tell_changes(console: Console, writer: RowWriter) -> None:
    """Say in one line what became of the rows of an earlier run."""
    said = [
        f"{number} {what}"
        for number, what in (
            (writer.repeated, "line(s) stood there twice"),
            (writer.again, "changed and are scored again"),
            (writer.gone, "are gone"),
            (writer.outside, "are not among the files asked for now"),
        )
        if number
    ]
    if said:
        kept = f"{writer.pruned} row(s) were dropped" if writer.pruned else "their rows stay (--prune drops them)"
        end = f": {kept}" if writer.gone or writer.outside else ""
        console.print(f"Of the earlier run's images {', '.join(said)}{end}.", highlight=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, disable=not sys.stderr.isatty(),
    )  # fmt: skip


def _report(console: Console, writer: RowWriter, model: Predictor, summary: Summary, scale: Scale) -> None:
    scored = failed = 0
    worst: list[tuple[float, str]] = []
    for row in writer.rows():
        failed += row.error is not None
        scored += row.error is None
        if row.score is not None:
            (heapq.heappush if len(worst) < _WORST else heapq.heappushpop)(worst, (row.score, row.path))
    table = Table("score", "image", title=f"highest scores of {scored}", title_justify="left")
    for score, path in sorted(worst, reverse=True):
        table.add_row(f"{score:.5g}", escape(path))
    console.print(table)
    if failed:
        console.print(f"[red]{failed} file(s) could not be read[/red]: see the column 'error'.")
    limits = model.map_range
    if scale is None and limits and summary.high - summary.low < _NARROW * (limits[1] - limits[0]):
        console.print(
            f"All maps lie in {summary.low:.4f} to {summary.high:.4f}, a small part of the fixed scale "
            f"{limits[0]:g} to {limits[1]:g}: --scale {summary.low:.4f},{summary.high:.4f} --fresh would show more."
        )
    Console().print(f"{scored + failed} rows in {writer.csv} and {writer.jsonl.name}", highlight=False, soft_wrap=True)
