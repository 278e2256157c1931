"""``zsad score --engine ray``: the same command, scored by a cluster."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from zsad.cli.cluster_options import chosen_cluster
from zsad.cli.drift import warn
from zsad.cli.panels import Comparison
from zsad.decision import Card
from zsad.decision.drift import Watch
from zsad.images import Found
from zsad.images.overlay import Scale
from zsad.inference import Predictor
from zsad.inference.audit import Audit
from zsad.inference.files import FileList
from zsad.inference.raw_maps import RawMaps
from zsad.scale import score
from zsad.scale.collect import counts, rows_by_path
from zsad.scale.job import BLOCK
from zsad.scale.places import Place
from zsad.scale.sources import gathered, is_elsewhere


def list_files(args: argparse.Namespace, naming: Callable[[Found], Found] | None) -> FileList:
    """Return what is to be scored: folders of this machine as ever, addresses, lists and shards beside them."""
    if not any(map(is_elsewhere, args.paths)):
        return FileList(args.paths, args.exclude, args.out, args.slices, naming)
    every = gathered(args.paths, str(args.out))
    kept = (one for one in every if not any(fnmatch(one.path, pattern) for pattern in args.exclude))
    return FileList.of(kept if naming is None else map(naming, kept))


def score_on_cluster(
    args: argparse.Namespace,
    arguments: Sequence[str],
    model: Predictor,
    files: FileList,
    settings: Mapping[str, Any],
    scale: Scale | str,
    comparison: Comparison,
    card: Card | None,
    console: Console,
) -> int:
    """Run the job and say what came out; return 1 if nothing could be scored."""
    place = Place.of(args.out)
    with (
        nullcontext() if place.remote else Audit(args.out, ("zsad", "score", *arguments), lambda: counts(place)),
        Progress(console=console, disable=True) as bars,
    ):
        done = score(
            files,
            args.out,
            model,
            args.class_name,
            cluster=chosen_cluster(args),
            threshold=args.threshold,
            scale=scale,
            overlays=not args.no_overlays,
            overlay_size=args.overlay_size,
            maps=None if args.maps is None else RawMaps(args.maps, args.map_size),
            num_workers=args.num_workers,
            content=args.hash,
            block=BLOCK if args.block is None else args.block,
            fresh=args.fresh,
            depends_on=settings,
            prepare=lambda: comparison.prepare(bars),
            say=lambda line: console.print(line, highlight=False),
        )
    comparison.report()
    if card is not None:
        tell_drift(console, card, place, args.calibration)
    if done.errors:
        console.print(f"[red]{done.errors} file(s) could not be read or scored[/red]: see the column 'error'.")
    into = " --into DIR" if place.remote else ""
    Console().print(
        f"{done.rows} rows in {args.out}/scores; 'zsad collect {args.out}{into}' makes scores.csv, scores.jsonl and "
        f"index.html of them.",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    return 0 if done.errors < done.rows else 1


def tell_drift(console: Console, card: Card, place: Place, given: Path | None) -> None:
    """Warn as a run on one machine does, in the order of the rows' paths: a cluster has no other."""
    watches: dict[str, Watch] = {}
    for row in rows_by_path(place):
        if row.score is not None and row.class_name is not None:
            warn(console, card, watches, row.class_name, [row.score], given)
