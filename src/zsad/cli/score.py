"""``zsad score``: a score and a heat map for every image of a folder of any size."""

import argparse
import math
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from zsad import __version__
from zsad.cli.cluster_options import check_engine
from zsad.cli.drift import warn
from zsad.cli.explain import OWN, Explanations
from zsad.cli.exported import open_exported
from zsad.cli.look_options import chosen_look
from zsad.cli.model_options import chosen_card, chosen_model
from zsad.cli.panels import Comparison
from zsad.cli.score_arguments import parser, read_scale
from zsad.cli.score_summary import summary
from zsad.cli.watching import check_comparison, check_watching, hook_of, watch_folders
from zsad.clip.embedded import EMBEDDED
from zsad.decision import Card
from zsad.decision.drift import watch_of
from zsad.images import Found, ReadOptions
from zsad.inference import Predictor, Result, load_model
from zsad.inference.after_run import finish, write_fdr, write_relative
from zsad.inference.audit import Audit
from zsad.inference.base import BasePredictor
from zsad.inference.files import FileList
from zsad.inference.parquet import require_parquet
from zsad.inference.products import ClassNames
from zsad.inference.raw_maps import RawMaps
from zsad.inference.recalibrate import card_settings, page_settings
from zsad.inference.run import Recorder
from zsad.inference.writer import RowWriter
from zsad.weights import notices


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0, also if some files could not be scored: they have a row with their error; 1 if all."""
    args = parser().parse_intermixed_args(arguments)
    console = Console(stderr=True)
    scale = read_scale(args.scale)
    if args.overlay_size < 1:
        raise ValueError(f"--overlay-size must be at least 1 pixel, got {args.overlay_size}.")
    if args.threshold is not None and not math.isfinite(args.threshold):
        raise ValueError(f"--threshold must be a finite number, got {args.threshold}.")
    if args.map_size is not None and args.maps is None:
        raise ValueError(f"--map-size {args.map_size} is about --maps: add --maps npy or tiff16.")
    if args.mm_per_pixel is not None and not 0 < args.mm_per_pixel < math.inf:
        raise ValueError(f"--mm-per-pixel must be a length above 0, got {args.mm_per_pixel:g}.")
    if args.format == "parquet":
        require_parquet()  # before anything is scored
    check_watching(args)
    check_engine(args)
    naming = None if args.class_name_from is None else ClassNames(args.class_name_from)
    if args.engine == "ray":
        from zsad.cli.on_cluster import list_files, score_on_cluster

        files = list_files(args, naming)
    else:
        files = FileList(args.paths, args.exclude, args.out, args.slices, naming)
    _tell_passed(console, files)
    if not len(files) and not args.watch:
        raise FileNotFoundError(f"No images under {', '.join(map(repr, args.paths))}.")
    card = chosen_card(args)
    if card is not None and args.threshold is not None:
        raise ValueError(f"--threshold {args.threshold:g} beside --calibration: the card decides. Take one of them.")
    if card is None and args.fdr is not None:
        raise ValueError(f"--fdr {args.fdr:g} needs p-values: add --calibration CARD.")
    model = _load(args, card)
    card = model.calibration if card is None else card  # an exported folder may bring one
    classes = files.classes(args.class_name)
    if args.watch and naming is not None and card is not None:
        classes = sorted({*files.named, *card.classes})  # the others may come
    comparison = Comparison(args, model, files, classes, console)
    check_comparison(args, comparison)
    if card is not None:
        model.use_calibration(card)  # once a panel that was given is there
        watches = {name: watch_of(card.entry(name)) for name in classes}
        for name in filter(card.unseen, classes):
            console.print(f"The card is pooled and was not made for '{name}': nothing is promised for this class.")
    if (mini := model.identity(classes[0])["backbone"]) in EMBEDDED:
        console.print(
            f"[yellow]{mini} knows synthetic images only: its scores of real images mean nothing. "
            "Leave out --backbone for real work.[/yellow]"
        )
    method = model.method if isinstance(model, Predictor) else None
    if said := notices.seen_before(getattr(method, "trained_on", ()), args.paths):
        console.print(said, style="yellow", markup=False)
    one_class = classes[0] if len(classes) == 1 and naming is None else None  # with a rule others may come
    settings = _settings(args, model, one_class) | comparison.settings()
    if args.engine == "ray":
        assert isinstance(model, Predictor)  # an exported one was refused
        settings |= {"page": page_settings(card, args.mm_per_pixel)}
        return score_on_cluster(args, arguments, model, files, settings, scale, comparison, card, console)
    explanations = Explanations(args.explain, model, args.out, args.overlay_size)
    maps = None if args.maps is None else RawMaps(args.maps, args.map_size)
    model.keeps_maps = maps is not None
    unit = 1 if args.watch else args.batch_size  # files come one by one: no batch is to be put together again
    opened = RowWriter(args.out, settings, unit, args.fresh, files, args.prune, content=args.hash)
    with opened as writer, Audit(args.out, ("zsad", "score", *arguments)), _progress(console) as bar:
        _tell_changes(console, writer)
        writer.note(page=page_settings(card, args.mm_per_pixel))
        comparison.prepare(bar)
        if card is not None:
            for row in writer.rows():
                if row.score is not None and row.class_name in watches:
                    watches[row.class_name].add([row.score])  # told before, or in time
        task = bar.add_task("scoring", total=None if args.watch else len(files), completed=len(writer))

        def scored(inputs: Iterable[Found]) -> Iterator[tuple[list[Found], list[Result]]]:
            handed: deque[Found] = deque()
            for batch in model.batches(
                _noted(inputs, handed),
                args.class_name if args.class_name in classes else classes[0],
                threshold=args.threshold,
                size="model" if args.no_overlays else args.overlay_size,
                strict=args.strict,
                num_workers=args.num_workers,
                content=args.hash,
            ):
                yield [handed.popleft() for _ in batch], batch

        def take(found: list[Found], batch: list[Result]) -> None:
            recorder.add(found, explanations.of(batch))
            if card is not None:
                for name in sorted({one.class_name for one in batch if one.error is None}):
                    scores = [one.pred_score for one in batch if one.error is None and one.class_name == name]
                    warn(console, card, watches, name, scores, args.calibration)
            bar.advance(task, len(batch))

        with (
            hook_of(args, card, console) as hook,
            Recorder(writer, scale, not args.no_overlays, model.map_range, args.num_workers, maps, hook) as recorder,
        ):
            if args.watch:
                watch_folders(args, console, files, writer, recorder, scored, take)
            else:
                recorder.start(files.roots)
                for found, batch in scored(one for one in files if not writer.has(one.real)):
                    take(found, batch)
        finish(args.out, page=not args.no_page, parquet=args.format == "parquet" or None)
        status = summary(console, writer, model.map_range, recorder)
        comparison.report()
        if args.relative:
            console.print(f"{write_relative(args.out, writer.rows())}: places within this folder, no labels.")
        if args.fdr is not None and card is not None:
            fewest = min(card.entry(name).calibration.n for name in classes)
            path, alarms, needed = write_fdr(args.out, writer.rows(), args.fdr, fewest)
            console.print(
                f"{alarms} alarms in {path}; with {fewest} calibration images an alarm needs {needed} of the highest "
                f"scores."
            )
    return 0 if args.watch else status


def _load(args: argparse.Namespace, card: Card | None) -> BasePredictor:
    if Image.MAX_IMAGE_PIXELS is not None:  # --max-pixels takes the place of Pillow's own limit
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, args.max_pixels)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    reading = ReadOptions(args.window, args.bits, args.max_pixels, args.fast_decode)
    if (exported := open_exported(args, card, reading)) is not None:
        return exported
    return load_model(
        **chosen_model(args, card),
        **chosen_look(args, card),
        device=args.device,
        batch_size=args.batch_size,
        explain=args.explain == OWN,
        window=args.window,
        bits=args.bits,
        max_pixels=args.max_pixels,
        fast_decode=args.fast_decode,
    )


def _noted(files: Iterable[Found], handed: deque[Found]) -> Iterator[Found]:
    """Yield files and remember them until their results come back, in the same order."""
    for found in files:
        handed.append(found)
        yield found


def _settings(args: argparse.Namespace, model: BasePredictor, class_name: str | None) -> dict[str, Any]:
    """Return what rows and heat maps depend on; the paths are left out, so that a folder may grow.

    Args:
        args: Of the command.
        model: What scores.
        class_name: What all images show; None if they differ.
    """
    return {
        "zsad": __version__,
        # by content: a file may be replaced by another of the same name
        **model.identity(class_name),
        "where": model.where.identity(),
        "calibration": None if model.calibration is None else card_settings(model.calibration, class_name),
        "adapters": model.licence_notice,
        "class_name": class_name,
        "class_name_from": args.class_name_from,
        "threshold": args.threshold,
        "explain": args.explain,
        "reading": {
            "limits": model.reading.limits,
            "max_pixels": model.reading.max_pixels,
            **({"fast_decode": True} if model.reading.fast_decode else {}),
        },
        "overlays": None if args.no_overlays else {"scale": args.scale, "size": args.overlay_size},
        "maps": None if args.maps is None else {"format": args.maps, "size": args.map_size},
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
