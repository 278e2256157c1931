"""The options that say which model is meant, and how a card fills in those that were not given."""

import argparse
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from zsad.cli.arguments import Parser
from zsad.inference.loading import FIRST_LOOK

if TYPE_CHECKING:  # the arguments and their help need no torch
    from zsad.decision import Card

DEFAULT_CLASS = "object"
COSTS = {
    "clip": "1", "clipac": "1", "maskclip": "1", "winclip": "8 to 13", "musc": "1, and comparisons", "vand": "1",
    "coop": "1", "anomalyclip": "1", "anovl": "22; 1 with views=none", "alfa": "8 to 12", "aaclip": "1",
    "visualad": "1", "adaclip": "2 to 7", "mvfa": "1", "transmm": "1",
}  # fmt: skip
"""Time of an image in passes of the image tower, texts left out: CPU, random weights, ViT-B/32 to ViT-B/16+."""
TRAINED = frozenset({"coop", "vand", "anomalyclip", "aaclip", "visualad", "adaclip", "mvfa"})
"""The methods that learn something."""
PRECISIONS = ("32", "bf16", "fp16")


def model_parser(prog: str, description: str, epilog: str = "") -> Parser:
    """Return a parser whose help ends with the table of methods; its texts keep their lines."""
    below = f"{epilog}\n\n{method_table()}" if epilog else method_table()
    return Parser(prog, description, epilog=below, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_model_options(made: argparse.ArgumentParser, several: bool = False) -> None:
    """Add method, class, backbone, checkpoint, options and references to a parser; without a value they are None.

    Args:
        made: The parser.
        several: Whether ``--class-name`` may be repeated; see :func:`chosen_classes`.
    """
    made.add_argument("--method", help="see the table below (default: the card's, else anovl, views=none)")
    what = "what the images show, in plain words (default: the card's, else 'object')"
    if several:
        made.add_argument("--class-name", action="append", metavar="NAME", help=f"{what}; may be repeated")
    else:
        made.add_argument("--class-name", help=what)
    made.add_argument(
        "--backbone",
        help="'<open_clip model>/<tag, file or random>', or 'zsad-mini-2' (embedded, knows synthetic images only); "
        "default: the card's, the checkpoint's, else the method's published one, downloaded on first use",
    )
    made.add_argument("--checkpoint", metavar="FILE", help="learned parameters of a trained method, or 'untrained'")
    made.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the method's class")
    made.add_argument("--precision", choices=PRECISIONS, help="of the backbone's blocks (default: the card's, else 32)")
    made.add_argument("--references", metavar="DIR", help="folder of normal reference images: few-shot")
    made.add_argument("--shots", type=int, metavar="N", help="how many of them, drawn by seed; default: all")


def method_table() -> str:
    """Return the registered methods with their cost, and those of other packages, a line each."""
    lines = ["method       trained  time of an image, in passes of the image tower", ""]
    for name, cost in COSTS.items():
        lines.append(f"{name:<12} {'yes' if name in TRAINED else 'no':<8} {cost}")
    for one in sorted(entry_points(group="zsad.methods"), key=lambda one: one.name):
        lines.append(f"{one.name:<12} of another package: {one.value}")
    return "\n".join(lines)


def chosen_card(args: argparse.Namespace) -> "Card | None":
    """Return the card that ``--calibration`` means: a file, or the one that the checkpoint ships.

    Raises:
        FileNotFoundError: There is no such file.
        CardError: It is no card, or the checkpoint ships none.
    """
    from zsad.decision import Card
    from zsad.inference.shipped import SHIPPED, shipped_card

    if args.calibration is None:
        return None
    if str(args.calibration) == SHIPPED:
        return shipped_card(args.checkpoint, args.precision or "32")
    return Card.load(args.calibration)


def chosen_classes(args: argparse.Namespace, card: "Card | None", more: Sequence[str] = ()) -> list[str]:
    """Return the classes of a ``--class-name`` that may be repeated, else the card's, else the usual one.

    Args:
        args: ``args.class_name`` becomes the first of them.
        card: If there is one.
        more: Classes that were given otherwise.
    """
    names = [*(args.class_name or ()), *more] or list(() if card is None else card.classes) or [DEFAULT_CLASS]
    args.class_name = names[0]
    return names


def chosen_model(args: argparse.Namespace, card: "Card | None" = None) -> dict[str, Any]:
    """Return the arguments of :func:`zsad.load_model` that the options and, where they are silent, a card ask for.

    ``args.method`` and ``args.class_name`` are filled in.

    Raises:
        CardError: The card names a backbone that is no registered one.
        ValueError: An option is not NAME=VALUE, or the card says something that is not taken from a file.
    """
    from zsad.decision.card_json import CardError
    from zsad.inference.identity import options_from_card

    options = read_options(args.option)
    if args.references is not None:
        options["references"] = args.references
    if args.shots is not None:
        options["shots"] = args.shots
    backbone = args.backbone
    if card is not None:
        by_hand = args.method is not None
        args.method = args.method or card.model["method"]
        if not by_hand or args.method.lower() in _names_of(card.model["method"]):
            options = {**options_from_card(card.model["method"], card.model["options"]), **options}
        if backbone is None and args.checkpoint in (None, "untrained"):
            backbone = backbone_from_card(card)
        if args.class_name is None and len(card.classes) == 1:
            args.class_name = next(iter(card.classes))
        args.precision = args.precision or card.model["precision"]
    args.precision = args.precision or "32"
    if args.precision not in PRECISIONS:
        raise CardError(f"The card's precision '{args.precision}' is none of {list(PRECISIONS)}.")
    if args.method is None:
        args.method, first = FIRST_LOOK
        options = {**first, **options}
    args.class_name = args.class_name or DEFAULT_CLASS
    return {
        "name": args.method,
        "backbone": backbone,
        "checkpoint": args.checkpoint,
        "precision": args.precision,
        **options,
    }


def backbone_from_card(card: "Card") -> str:
    """Return the backbone that a card names: a model and a tag that open_clip knows, never a file.

    Raises:
        CardError: It is something else.
    """
    from zsad.clip.loading import is_named
    from zsad.decision.card_json import CardError

    name = str(card.model["backbone"])
    if not is_named(name):
        raise CardError(
            f"The card's backbone '{name}' is no registered model and tag; files are not followed from a card: give it "
            f"by hand (--backbone '{name}') if it is meant."
        )
    return name


def read_options(pairs: list[str]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` arguments as a dictionary, values read as YAML.

    Raises:
        ValueError: There is no name or no equals sign.
    """
    from zsad.prompts.yaml_text import read_yaml

    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.replace("-", "_")
        if not name.isidentifier() or not equals:
            raise ValueError(f"--option must be NAME=VALUE, got '{pair}'.")
        options[name] = read_yaml(value, f"--option {name}")
    return options


def _names_of(method: str) -> set[str]:
    from zsad.methods import METHODS

    return {name.lower() for key, kind in METHODS.items() for name in (key, kind.__name__) if kind.__name__ == method}
