"""``zsad score --watch`` and ``--on-anomaly``: files that arrive all day long, and what happens at an alarm."""

import argparse
import contextlib
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.markup import escape

from zsad.cli.interrupt import signals_stop
from zsad.cli.panels import Comparison
from zsad.decision import Card
from zsad.images import Found
from zsad.inference import Result
from zsad.inference.arrivals import Arrivals
from zsad.inference.files import FileList, outermost
from zsad.inference.hook import Hook
from zsad.inference.index_page import write_index
from zsad.inference.run import Recorder
from zsad.inference.watched import WatchedFolders, require_watchfiles
from zsad.inference.writer import RowWriter
from zsad.methods.musc import PanelError

Scored = Callable[[Iterable[Found]], Iterator[tuple[list[Found], list[Result]]]]
Take = Callable[[list[Found], list[Result]], None]

PAGE, _SHARE = 10.0, 20.0
"""Between two pages: seconds, and times what writing one takes."""


def check_watching(args: argparse.Namespace) -> None:
    """Raise if the options of watching do not go together.

    Raises:
        ValueError: They do not.
        FileNotFoundError: A folder is not there.
    """
    if args.on_anomaly is not None and args.threshold is None and args.calibration is None and args.model is None:
        raise ValueError("--on-anomaly needs labels: add --calibration CARD or --threshold T.")
    if not args.watch:
        return
    if not (args.settle > 0 and args.settle < 86_400):
        raise ValueError(f"--settle must be a number of seconds above 0, got {args.settle:g}.")
    for path in args.paths:
        if not os.path.exists(path):
            raise FileNotFoundError(f"No such folder to watch: '{path}'.")
        if not os.path.isdir(path):
            raise ValueError(f"--watch takes folders, and '{path}' is none.")
    if args.strict:
        raise ValueError("--strict ends at the first bad file, --watch goes on: take one of them.")
    if not args.polling:
        require_watchfiles()


def check_comparison(args: argparse.Namespace, comparison: Comparison) -> None:
    """Raise if the images of a folder that is never whole would be compared with each other.

    Raises:
        PanelError: They would.
    """
    if args.watch and comparison.draws:
        raise PanelError(
            f"{args.method} compares the images of a folder with each other, and with --watch there is no end to them: "
            f"add --panel FILE of an earlier run, or --references DIR."
        )


@contextlib.contextmanager
def hook_of(args: argparse.Namespace, card: Card | None, console: Console) -> Iterator[Hook | None]:
    """Give the command of ``--on-anomaly``, None without one; at the end wait for those that run."""
    if args.on_anomaly is None:
        yield None
        return
    if card is None and args.threshold is None:
        raise ValueError("--on-anomaly needs labels: add --calibration CARD or --threshold T.")
    with Hook(args.on_anomaly, lambda said: say(console, said)) as hook:
        yield hook


def watch_folders(
    args: argparse.Namespace, console: Console, files: FileList, writer: RowWriter, recorder: Recorder, scored: Scored,
    take: Take,
) -> None:  # fmt: skip
    """Score what is there, then every file that arrives, until Ctrl-C or SIGTERM; the batch in hand is finished.

    Args:
        args: Of the command.
        console: For sentences.
        files: What was there.
        writer: Of the rows; it knows those of earlier runs.
        recorder: Of the results.
        scored: Scores files, batch by batch.
        take: Takes a batch.
    """
    roots = [str(path) for path in outermost(args.paths)]
    folders = WatchedFolders(roots, files.avoided, args.polling, args.settle, lambda said: say(console, said))
    arrivals = Arrivals(folders, args.settle, writer.has, files.chosen)
    recorder.start(list(folders.roots))
    fresh, next_page = not args.no_page, 0.0

    def page() -> None:
        nonlocal next_page
        start = time.monotonic()
        write_index(args.out)
        end = time.monotonic()
        next_page = end + max(PAGE, _SHARE * (end - start))

    stop = threading.Event()
    with signals_stop(stop):
        console.print(f"Watching {', '.join(map(repr, roots))}; Ctrl-C or SIGTERM ends it.", highlight=False)
        for ready in arrivals.ready(stop):
            for image in ready:  # none, most of the time
                for found, results in scored(itertools.chain([image], ready)):
                    # no row for what is gone, or may only be half there
                    pairs = zip(found, results, strict=True)
                    kept = [(one, got) for one, got in pairs if not (got.error and arrivals.again(one, got.file))]
                    if kept:
                        take([one for one, _ in kept], [got for _, got in kept])
                recorder.flush()
                fresh = not args.no_page
            if fresh and time.monotonic() >= next_page:
                fresh, next_page = False, math.inf
                recorder.then(page)


def say(console: Console, said: str) -> None:
    """Print a warning."""
    console.print(f"[yellow]{escape(said)}[/yellow]", highlight=False)
