"""``--model DIR --runtime ENGINE``: an exported folder in place of a method, for commands that score."""

import argparse

from zsad.cli.look_options import chosen_look
from zsad.cli.model_options import DEFAULT_CLASS
from zsad.decision import Card
from zsad.images import ReadOptions
from zsad.images.where import Where
from zsad.inference.base import BasePredictor

_OF_A_METHOD = ("method", "backbone", "checkpoint", "option", "references", "shots", "explain", "panel", "split")
_PRECISIONS = ("32", "bf16")


def add_exported_options(made: argparse.ArgumentParser) -> None:
    """Add them to a parser."""
    made.add_argument("--model", metavar="DIR", help="what 'zsad export' wrote, in place of a method and a backbone")
    made.add_argument("--runtime", help="of --model: onnxruntime (default), openvino, or torch for a model.pt2")
    made.add_argument("--threads", type=int, metavar="N", help="of --model: default is the cores this process may use")


def open_exported(args: argparse.Namespace, card: Card | None, reading: ReadOptions) -> BasePredictor | None:
    """Return the exported model that is asked for, None if none is; fills in class and precision of the arguments.

    Raises:
        ValueError: Options of a method stand beside it, or it needs a class.
    """
    if args.model is None:
        if args.runtime not in (None, "torch"):
            raise ValueError(f"--runtime {args.runtime} runs an exported folder: add --model DIR ('zsad export').")
        return None
    if given := [f"--{name}" for name in _OF_A_METHOD if getattr(args, name, None)]:
        raise ValueError(f"--model '{args.model}' says which method it is: leave out {', '.join(given)}.")
    if args.precision not in (None, *_PRECISIONS):
        raise ValueError(f"--precision {args.precision}: an exported model has {' and '.join(_PRECISIONS)}.")
    from zsad.deploy import Runtime

    look = chosen_look(args, card)
    model = Runtime(
        args.model, args.runtime or "onnxruntime", args.threads, precision=args.precision or "32",
        batch_size=args.batch_size, calibration=card, reading=reading, tiles=look["tiles"],
        where=Where.of(look["roi"], look["ignore_mask"]),
    )  # fmt: skip
    card = model.calibration
    if args.class_name is None:
        names = list(card.classes) if card is not None else [] if model.meta["class_agnostic"] else model.classes
        if len(names) > 1:
            raise ValueError(f"Say what the images show: --class-name, one of {', '.join(map(repr, names))}.")
        args.class_name = names[0] if names else DEFAULT_CLASS
    args.precision, args.method = model.precision, model.meta["model"]["method"]
    return model
