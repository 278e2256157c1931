"""``zsad serve``: a model behind HTTP, with a page for the browser."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from zsad.cli.model_options import add_model_options, chosen_classes, chosen_model, model_parser
from zsad.decision import Card
from zsad.deploy.served import Served


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    from zsad.deploy.serve_options import add_serve_options

    made = model_parser(
        "zsad serve",
        "Score images that come over HTTP: POST /v1/score, /v1/score-many, and a page at /.\n"
        "It listens on this machine only, unless there is a token; nothing that comes in is stored.",
    )
    made.add_argument("export", nargs="?", type=Path, metavar="EXPORT", help="a folder of 'zsad export', without torch")
    add_model_options(made, several=True)
    made.add_argument("--calibration", type=Path, metavar="CARD", help="of 'zsad calibrate': labels, p-values, regions")
    made.add_argument("--runtime", help="of an EXPORT: 'onnxruntime' (default), 'openvino', 'torch'")
    made.add_argument(
        "--threads", type=int, help="of a pass of an EXPORT (default: the cores that this process may use)"
    )
    made.add_argument("--device", default="auto", help="'auto', 'cpu', 'cuda:0', 'mps' (default: %(default)s)")
    add_serve_options(made)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is told to end; return the exit status."""
    try:
        from zsad.deploy.serve import serve
    except ImportError as error:
        raise ValueError(f"The server needs a package that is missing ({error}): pip install 'zsad[serve]'.") from error
    from zsad.deploy.engine import Engine
    from zsad.deploy.serve_options import PAGE_FOLDER, read_serve_options
    from zsad.images.levels import ReadOptions

    args = parser().parse_args(arguments)
    options = read_serve_options(args, PAGE_FOLDER)
    model = _live(args) if args.export is None else _exported(args)
    engine = Engine(model, ReadOptions(max_pixels=options.max_pixels), options.batch_size, options.batch_wait)
    return serve(engine, options)


def _exported(args: argparse.Namespace) -> Served:
    from zsad.deploy.runtime import Runtime

    typed = [
        name
        for name in ("method", "class_name", "backbone", "checkpoint", "references", "shots")
        if getattr(args, name)
    ]
    if typed or args.option:
        name = f"--{(typed or ['option'])[0].replace('_', '-')}"
        raise ValueError(f"{name} beside '{args.export}': an exported model is as it is. Leave out one of them.")
    return Runtime(
        args.export, args.runtime or "onnxruntime", args.threads, precision=args.precision or "32",
        batch_size=args.batch_size, calibration=args.calibration,
    )  # fmt: skip


def _live(args: argparse.Namespace) -> Served:
    from zsad.deploy.live import Live
    from zsad.inference import load_model

    card = None if args.calibration is None else Card.load(args.calibration)
    names = chosen_classes(args, card)
    predictor = load_model(**chosen_model(args, card), device=args.device, calibration=card)
    return Live(predictor, names)
