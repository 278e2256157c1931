"""``zsad score``: a score and a heat map for every image of a folder of any size."""

import argparse
import heapq
import math
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from zsad import __version__
from zsad.cli.explain import OWN, Explanations
from zsad.cli.panels import Comparison
from zsad.cli.score_arguments import parser, read_options, read_scale
from zsad.clip.loading import MINI
from zsad.images import Found
from zsad.inference import Predictor, load_model
from zsad.inference.files import FileList
from zsad.inference.run import Recorder
from zsad.inference.writer import RowWriter
from zsad.training.token_cache import tower_key

_WORST = 5  # rows shown at the end
_NARROW = 0.1  # share of the scale below which heat maps look all the same


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0, also if some files could not be scored: they have a row with their error; 1 if all."""
    args = parser().parse_intermixed_args(arguments)
    console = Console(stderr=True)
    scale = read_scale(args.scale)
    if args.overlay_size < 1:
        raise ValueError(f"--overlay-size must be at least 1 pixel, got {args.overlay_size}.")
    if args.threshold is not None and not math.isfinite(args.threshold):
        raise ValueError(f"--threshold must be a finite number, got {args.threshold}.")
    files = FileList(args.paths, args.exclude, avoid=args.out)
    _tell_passed(console, files)
    if not len(files):
        raise FileNotFoundError(f"No images under {', '.join(map(repr, args.paths))}.")
    model = _load(args)
    if model.method.clip.name == MINI:
        console.print(
            "[yellow]zsad-mini knows synthetic images only: its scores of real images mean nothing. "
            "Leave out --backbone for real work.[/yellow]"
        )
    explanations = Explanations(args.explain, model, args.out, args.class_name, args.overlay_size)
    comparison = Comparison(args, model, files, console)
    settings = _settings(args, model) | comparison.settings()
    opened = RowWriter(args.out, settings, args.batch_size, args.fresh, files, args.prune, content=args.hash)
    with opened as writer, _progress(console) as bar:
        _tell_changes(console, writer)
        comparison.prepare(bar)
        task = bar.add_task("scoring", total=len(files), completed=len(writer))
        handed: deque[Found] = deque()
        with Recorder(writer, scale, not args.no_overlays, model.map_range) as recorder:
            recorder.start(files.roots)
            for batch in model.batches(
                _noted((found for found in files if not writer.has(found.real)), handed),
                args.class_name,
                threshold=args.threshold,
                size=args.overlay_size,
                strict=args.strict,
                num_workers=args.num_workers,
                content=args.hash,
            ):
                recorder.add([handed.popleft() for _ in batch], explanations.of(batch))
                bar.advance(task, len(batch))
        status = _report(console, writer, model, recorder)
        comparison.report()
    return status


def _load(args: argparse.Namespace) -> Predictor:
    options = read_options(args.option)
    if args.references is not None:
        options["references"] = args.references
    if args.shots is not None:
        options["shots"] = args.shots
    if Image.MAX_IMAGE_PIXELS is not None:  # --max-pixels takes the place of Pillow's own limit
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, args.max_pixels)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return load_model(
        args.method,
        args.backbone,
        args.checkpoint,
        args.device,
        args.batch_size,
        args.explain == OWN,
        args.window,
        args.bits,
        args.max_pixels,
        **options,
    )


def _noted(files: Iterator[Found], handed: deque[Found]) -> Iterator[Found]:
    """Yield files and remember them until their results come back, in the same order."""
    for found in files:
        handed.append(found)
        yield found


def _settings(args: argparse.Namespace, model: Predictor) -> dict[str, Any]:
    """Return what rows and heat maps depend on; the paths are left out, so that a folder may grow."""
    return {
        "zsad": __version__,
        "method": type(model.method).__name__,
        "backbone": model.method.clip.name,
        # by content: a file may be replaced by another of the same name
        "backbone_weights": tower_key(model.method.clip.model, {})[:16],
        "learned_parameters": tower_key(model.method, {})[:16],
        "options": read_options(args.option),
        "references": _references(args, model),
        "class_name": args.class_name,
        "threshold": args.threshold,
        "explain": args.explain,
        "reading": {"limits": model.reading.limits, "max_pixels": model.reading.max_pixels},
        "overlays": None if args.no_overlays else {"scale": args.scale, "size": args.overlay_size},
    }


def _references(args: argparse.Namespace, model: Predictor) -> str | None:
    """Return a digest of the normal images that the class is compared with; None for a zero-shot run."""
    if model.method.references is None or not model.method.is_few_shot([args.class_name]):
        return None
    return model.method.memory.digest(args.class_name)


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


def _tell_passed(console: Console, files: FileList) -> None:
    """Say in one line what lies there and is no image by its name, and which names stand for one image."""
    if files.passed:
        shown = [f"{number} {ending or 'without an ending'}" for ending, number in files.passed.most_common(8)]
        more = ", ..." if len(files.passed) > 8 else ""
        console.print(
            f"Passed over {sum(files.passed.values())} file(s) that are no images by their names: "
            f"{escape(', '.join(shown))}{more}.",
            highlight=False,
        )
    if files.repeated:
        console.print(f"{files.repeated} more name(s) of images that are listed already were passed over.")


def _report(console: Console, writer: RowWriter, model: Predictor, recorder: Recorder) -> int:
    """Say what came out; return the exit status."""
    scored = failed = 0
    worst: list[tuple[float, str]] = []
    for row in writer.rows():
        failed += row.error is not None
        scored += row.error is None
        if row.score is not None:
            (heapq.heappush if len(worst) < _WORST else heapq.heappushpop)(worst, (row.score, row.path))
    if worst:
        table = Table("score", "image", title=f"highest scores of {scored}", title_justify="left")
        for score, path in sorted(worst, reverse=True):
            table.add_row(f"{score:.5g}", escape(path))
        console.print(table)
    if failed:
        console.print(f"[red]{failed} file(s) could not be read or scored[/red]: see the column 'error'.")
    if recorder.narrow:
        low, high = min(low for low, _ in recorder.narrow), max(high for _, high in recorder.narrow)
        console.print(
            f"{len(recorder.narrow)} picture(s) use less than an eighth of their range of grey levels and look nearly "
            f"black: --window {low:g},{high:g} --fresh would fit them.",
            highlight=False,
        )
    limits = model.map_range
    narrow = limits and 0 <= recorder.high - recorder.low < _NARROW * (limits[1] - limits[0])
    if recorder.overlays and recorder.scale is None and limits and narrow:
        console.print(
            f"All maps lie in {recorder.low:.4f} to {recorder.high:.4f}, a small part of the fixed scale {limits[0]:g} "
            f"to {limits[1]:g}: --scale {recorder.low:.4f},{recorder.high:.4f} --fresh would show more."
        )
    elif recorder.overlays and isinstance(recorder.scale, tuple) and recorder.scored:
        low, high = recorder.scale
        console.print(f"Heat maps: first colour {low:.5g}, last colour {high:.5g}.", highlight=False)
    new = recorder.scored + recorder.failed
    what = f"{scored + failed} rows in {writer.csv} and {writer.jsonl.name}, {new or 'none'} of them new"
    Console().print(what, highlight=False, soft_wrap=True)
    if not scored:
        console.print("[red]Nothing could be scored.[/red]")
    return 0 if scored else 1
