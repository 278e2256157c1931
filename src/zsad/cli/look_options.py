"""The options that say how pictures are looked at: in tiles, where, and as which product."""

import argparse
from typing import Any

from zsad.decision import Card, CardError
from zsad.images.tiling import Tiles


def add_look_options(made: argparse.ArgumentParser) -> None:
    """Add tiles, region of interest, mask and the source of class names to a parser."""
    made.add_argument(
        "--class-name-from",
        metavar="parent|manifest|REGEX",
        help="each image's own class: the name of its folder, the column class_name of a manifest, or the first group "
        "of a pattern on its path",
    )
    made.add_argument("--tile", type=int, metavar="SIZE", help="score large pictures in tiles of SIZE pixels as well")
    made.add_argument("--tile-overlap", type=float, metavar="SHARE", help="that neighbours share (default: 0.25)")
    made.add_argument(
        "--tile-score", choices=("max", "mean", "map"), help="of tiles and whole, or maximum of the map (default: max)"
    )
    made.add_argument(
        "--roi", metavar="X,Y,W,H", help="look at this part only, in pixels or per cent: 10%%,10%%,80%%,80%%"
    )
    made.add_argument("--ignore-mask", metavar="FILE", help="picture whose pixels above 0 do not count")


def chosen_look(args: argparse.Namespace, card: Card | None = None) -> dict[str, Any]:
    """Return the arguments of :func:`zsad.load_model` that say how pictures are looked at.

    Where the options are silent a card decides: its tiles, and its region of interest if it has one class.

    Raises:
        ValueError: An option lacks the size of the tiles, or makes no sense.
        CardError: What the card says of tiles makes no sense.
    """
    roi = args.roi
    if card is not None and roi is None and args.ignore_mask is None and len(card.classes) == 1:
        where = card.entry().where
        roi = None if where is None else where["roi"]
    return {"tiles": _tiles(args, card), "roi": roi, "ignore_mask": args.ignore_mask}


def _tiles(args: argparse.Namespace, card: Card | None) -> Tiles | None:
    given = {"overlap": args.tile_overlap, "score": args.tile_score}
    given = {name: value for name, value in given.items() if value is not None}
    if args.tile is not None:
        return Tiles(args.tile, **given)
    if given:
        name, value = next(iter(given.items()))
        raise ValueError(f"--tile-{name} {value} needs the size of the tiles: add --tile SIZE.")
    kept = None if card is None else card.model.get("tiles")
    if kept is None:
        return None
    try:
        return Tiles(**kept)
    except (TypeError, ValueError) as error:
        raise CardError(f"The card's tiles {kept!r} make no sense: {error}") from error
