"""``python run.py``: score files with the exported model beside it, or serve it."""

import argparse
import itertools
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zsad import __version__
from zsad.deploy.engines import ENGINES, PRECISIONS
from zsad.deploy.runtime import Runtime
from zsad.images.levels import ReadOptions
from zsad.images.listing import Found
from zsad.images.overlay import AUTO
from zsad.inference.files import FileList
from zsad.inference.run import Recorder
from zsad.inference.writer import RowWriter


def parser() -> argparse.ArgumentParser:
    """Return the arguments of scoring."""
    made = argparse.ArgumentParser(
        prog="run.py",
        description="Score every image under the given paths with the model beside this file; write scores.csv, "
        "scores.jsonl and heat maps as it goes. Started again, it goes on where it stopped.",
        epilog="'run.py serve --help' shows the arguments of the server.",
    )
    made.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders (to every depth) and patterns")
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    made.add_argument("--class-name", help="what the images show; not needed if there is one class")
    made.add_argument("--threshold", type=float, help="label an image 1 from this score on; without it, no labels")
    _add_engine(made)
    made.add_argument("--batch-size", type=int, default=8, help="images per pass (default: %(default)s)")
    made.add_argument("--overlay-size", type=int, default=512, help="longer side of heat maps (default: %(default)s)")
    made.add_argument("--no-overlays", action="store_true", help="write no heat maps")
    made.add_argument("--fresh", action="store_true", help="start over, whatever is in DIR from an earlier run")
    return made


def main(arguments: Sequence[str], file: str) -> int:
    """Run ``run.py``; return its exit status: 0 done, 1 nothing scored, 2 the user's error in one line.

    Args:
        arguments: Of the command line.
        file: The program; the model lies beside it.
    """
    folder = Path(file).resolve().parent
    try:
        if arguments[:1] == ["serve"]:
            return _serve(arguments[1:], folder)
        return _score(parser().parse_args(arguments), folder)
    except KeyboardInterrupt:
        print("run.py: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        return 2


def _serve(arguments: Sequence[str], folder: Path) -> int:
    try:
        from zsad.deploy.engine import Engine
        from zsad.deploy.serve import serve
        from zsad.deploy.serve_options import add_serve_options, read_serve_options
    except ImportError as error:
        raise ValueError(f"The server needs a package: {error}; pip install -r requirements.txt.") from error
    made = argparse.ArgumentParser(prog="run.py serve", description="Score images that come over HTTP; a page at /.")
    _add_engine(made)
    add_serve_options(made)
    args = made.parse_args(arguments)
    options = read_serve_options(args, folder / "page")
    reading = ReadOptions(max_pixels=options.max_pixels)
    model = Runtime(
        folder, args.runtime, args.threads, precision=args.precision, calibration=args.calibration, reading=reading
    )
    return serve(Engine(model, reading, options.batch_size, options.batch_wait), options)


def _add_engine(made: argparse.ArgumentParser) -> None:
    made.add_argument("--calibration", type=Path, metavar="CARD", help="default: card.json beside this file, if any")
    made.add_argument("--runtime", choices=ENGINES, default=ENGINES[0], help="default: %(default)s")
    made.add_argument("--precision", choices=PRECISIONS, default="32", help="bf16: of the tower, with openvino")
    made.add_argument("--threads", type=int, help="of one pass (default: the cores that this process may use)")


def _score(args: argparse.Namespace, folder: Path) -> int:
    files = FileList(args.paths, avoid=args.out)
    if not len(files):
        raise FileNotFoundError(f"No images under {', '.join(map(repr, args.paths))}.")
    model = Runtime(
        folder, args.runtime, args.threads, precision=args.precision, batch_size=args.batch_size,
        calibration=args.calibration, reading=ReadOptions(),
    )  # fmt: skip
    known = model.classes if model.calibration is None else list(model.calibration.classes)
    if args.class_name is None and len(known) > 1:
        raise ValueError(f"Say what the images show: --class-name, one of {', '.join(map(repr, known))}.")
    name = args.class_name or known[0]
    settings: dict[str, Any] = {
        "zsad": __version__,
        **model.identity(name),
        "class_name": name,
        "threshold": args.threshold,
        "calibration": None if model.calibration is None else model.calibration.digest,
        "overlays": None if args.no_overlays else {"size": args.overlay_size},
    }
    handed: deque[Found] = deque()

    def noted(found: Iterator[Found]) -> Iterator[Found]:
        for one in found:
            handed.append(one)
            yield one

    with RowWriter(args.out, settings, args.batch_size, args.fresh, files) as writer:
        with Recorder(writer, AUTO, not args.no_overlays, model.map_range) as recorder:
            recorder.start(files.roots)
            left = noted(one for one in files if not writer.has(one.real))
            for batch in model.batches(left, name, threshold=args.threshold, size=args.overlay_size, num_workers=2):
                recorder.add(list(itertools.islice(_popped(handed), len(batch))), batch)
        rows = list(writer.rows())
    failed = sum(row.error is not None for row in rows)
    alarms = sum(row.label == 1 for row in rows)
    labelled = f", {alarms} of them anomalous" if any(row.label is not None for row in rows) else ""
    print(f"{len(rows)} rows in {args.out / 'scores.csv'}{labelled}; {failed} could not be read or scored.")
    return 0 if len(rows) > failed else 1


def _popped(handed: "deque[Found]") -> Iterator[Found]:
    while handed:
        yield handed.popleft()
