"""Write the regions of a run as COCO JSON, Label Studio JSON, CVAT XML or mask pictures.

Regions are those that 'zsad score --calibration' found, or those that lie above a threshold of the maps that 'zsad
score --maps' kept; no image is scored again. Coordinates are those of upright pictures.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from zsad.cli.arguments import Parser
from zsad.decision.export import FORMATS, Found, export
from zsad.decision.regions import MOST, Region
from zsad.decision.regions import regions as find_regions
from zsad.inference.recalibrate import map_of
from zsad.inference.relabel import all_rows


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = Parser("zsad export-regions", __doc__)
    made.add_argument("run", type=Path, metavar="RUN", help="the folder that 'zsad score' wrote with --out")
    made.add_argument("--format", choices=FORMATS, required=True)
    made.add_argument("--out", type=Path, required=True, help="file to write; a folder for masks")
    made.add_argument("--pixel-threshold", type=float, metavar="T", help="cut the regions anew out of the run's maps")
    made.add_argument("--min-area", type=int, default=0, metavar="PIXELS", help="least area of these regions")
    made.add_argument("--url-prefix", default="", help="of images in Label Studio, e.g. '/data/local-files/?d=photos/'")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0."""
    args = parser().parse_args(arguments)
    console = Console(stderr=True)
    if not (args.run / "scores.jsonl").is_file():
        raise FileNotFoundError(f"'{args.run}' holds no rows: there is no scores.jsonl in it.")
    settings: dict[str, Any] = {}
    if (args.run / "settings.json").is_file():
        settings = json.loads((args.run / "settings.json").read_text(encoding="utf-8"))
    if args.min_area and args.pixel_threshold is None:
        raise ValueError(f"--min-area {args.min_area} goes with --pixel-threshold: a card's regions have their own.")
    found = list(_found(args, str(settings.get("class_name") or "anomaly")))
    if not found and args.pixel_threshold is not None:
        raise ValueError(f"'{args.run}' has no maps: score with --maps npy.")
    if not found:
        raise ValueError(
            f"'{args.run}' has no regions: score with a card that was made with 'zsad calibrate ... --regions'."
        )
    images = [one for one, _ in found]
    version = str((settings.get("calibration") or {}).get("digest", ""))
    path = export(images, args.format, args.out, version, args.url_prefix)
    turned = sum(map(_is_turned, (one.path for one in images)))
    if turned:
        console.print(
            f"{turned} picture(s) are turned by their EXIF data: coordinates are those of the upright pictures."
        )
    holes = sum(len(region.rings) > 1 for one in images for region in one.regions)
    if holes and args.format in ("labelstudio", "cvat"):
        console.print(f"{holes} region(s) have holes, which this format cannot say: their outlines were written.")
    left_out = sum(total - len(one.regions) for one, total in found)
    if left_out:
        console.print(f"{left_out} region(s) beyond {MOST} of an image are counted in its row and not written.")
    number = sum(len(one.regions) for one in images)
    print(f"{number} regions of {len(images)} images in {path}")
    return 0


def _found(args: argparse.Namespace, class_name: str) -> Iterator[tuple[Found, int]]:
    for row in all_rows(args.run / "scores.jsonl"):
        if row.width is None or row.height is None:
            continue
        if args.pixel_threshold is None:
            regions, number = [Region.from_json(one) for one in row.regions or []], row.n_regions
        elif (values := map_of(row, args.run)) is not None:
            every = find_regions(values, args.pixel_threshold, args.min_area, None)
            regions, number = every[:MOST], len(every)
        else:
            continue
        if number is not None:
            image = Found(row.path, row.width, row.height, row.class_name or class_name, regions, row.score)
            yield image, number


def _is_turned(path: str) -> bool:
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as picture:
            return picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except OSError:
        return False  # moved since it was scored: the coordinates stay what they are
