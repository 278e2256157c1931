"""Score good parts of one class and write a card.

'zsad score --calibration CARD' then says which images are unusual, with a promise: at most a share ALPHA of good parts
alarms, on average over calibrations. Stopped and started again, it goes on where it was.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape

from zsad.cli.arguments import Parser
from zsad.cli.calibration_report import evaluation, say_labelled, say_promise, write_page
from zsad.cli.calibration_split import HALF, Halves
from zsad.cli.exported import add_exported_options, open_exported
from zsad.cli.look_options import add_look_options, chosen_look
from zsad.cli.model_options import add_model_options, chosen_model
from zsad.cli.score_arguments import add_reading
from zsad.decision import Card, CardError
from zsad.decision.conformal import k_for
from zsad.decision.grouping import group_names, one_of_each, one_per_group
from zsad.decision.rules import Rule
from zsad.images import Found, ReadOptions
from zsad.inference import load_model
from zsad.inference.base import BasePredictor
from zsad.inference.calibration import Seen, card_of, pixel_quantile, refuse_references
from zsad.inference.files import FileList
from zsad.inference.products import ClassNames
from zsad.inference.rows import Row
from zsad.inference.shipped import ship
from zsad.inference.writer import RowWriter
from zsad.methods import get_method

_HIGHEST = 5


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = Parser(
        "zsad calibrate",
        __doc__,
        epilog="Calibrate last and once: choosing method, alpha or backbone by the alarms on the same images undoes "
        "the promise.",
    )
    made.add_argument(
        "good", nargs="+", metavar="GOOD", help="files, folders and manifests of good parts, not used before"
    )
    made.add_argument("--out", required=True, type=Path, metavar="CARD", help="card to write, e.g. nut.card.json")
    add_model_options(made)
    add_exported_options(made)
    add_look_options(made)
    add = made.add_argument
    add("--panel", metavar="FILE", help="panel.safetensors of other good images, for methods that compare (MuSc)")
    add("--alpha", type=float, help="share of good parts that may alarm (default: 0.05)")
    add("--rule", help="far=ALPHA (default), any=ALPHA; with --anomalous recall=B, f1, youden, precision=Q, cost=FP:FN")
    add("--sure", type=float, help="with this confidence the rate is at most ALPHA (0.95 needs 59 images)")
    add("--anomalous", nargs="+", default=[], metavar="BAD", help="files and folders of defective parts")
    add("--prevalence", type=float, help="share of defective parts in production, if known")
    add("--held-out", nargs="+", default=[], metavar="GOOD", help="further good parts, to check the card")
    add("--group-by", metavar="REGEX", help="part in a path, e.g. 'part(\\d+)': one photo of each part is taken")
    add(
        "--split", nargs="?", type=float, const=HALF, metavar="SHARE",
        help="few good images: this share of them (bare: half) becomes references, or the panel of MuSc, which splits "
        "by itself without --panel; the rest calibrates",
    )  # fmt: skip
    add("--seed", type=int, default=0, help="of these choices and of the random splits (default: 0)")
    add("--regions", nargs="?", const="max", choices=("max", "area"), help="calibrate maps, by maximum or largest area")
    add("--pixel-threshold", type=float, metavar="T", help="of --regions area, not chosen on these images")
    add("--pixel-images", nargs="+", default=[], metavar="GOOD", help="in place of T: other good parts that give it")
    add("--pixel-quantile", type=float, metavar="SHARE", help="of their pixels below T (default: 0.999)")
    add("--min-area", type=float, default=0, metavar="A", help="least area of a region, in pixels or mm2")
    add("--mm-per-pixel", type=float, metavar="MM", help="kept in the card; --min-area is then in mm2")
    add("--evaluate", action="store_true", help="random splits and held-out images, in the page beside the card")
    add("--pooled", action="store_true", help="let the card serve other classes too, without a promise")
    add("--into", metavar="PLACE", help="the --checkpoint, file or folder, which is to carry the card from then on")
    add("--add", action="store_true", help="add the class to the card that is there, or renew it")
    add("--batch-size", type=int, default=8, help="images per forward pass (default: %(default)s)")
    add("--num-workers", type=int, default=min(4, os.cpu_count() or 1), help="threads that read images")
    add("--device", default="auto", help="'auto', 'cpu', 'cuda:0', 'mps' (default: %(default)s)")
    add("--exclude", action="append", default=[], metavar="PATTERN", help="leave out images of such paths")
    add("--fresh", action="store_true", help="score again, whatever an earlier run left")
    add_reading(made)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0."""
    args = parser().parse_intermixed_args(arguments)
    rule = _rule(args)
    earlier = _earlier(args)
    good = _found(args.good, args)
    exported = open_exported(args, None, ReadOptions(args.window, args.bits, args.max_pixels))
    options = chosen_model(args, earlier) if exported is None else {}
    classes = good.classes(args.class_name)
    if len(classes) > 1:
        _refuse_several(args, classes)
    grouped = {name: _grouped([one for one in good if _class_of(one, args) == name], args) for name in classes}
    halves = Halves(args, [one.path for one in grouped[classes[0]]])
    if len(classes) == 1:
        rest = set(halves.rest)
        grouped = {name: [one for one in files if one.path in rest] for name, files in grouped.items()}
    for name, files in grouped.items():
        if rule.name in ("far", "any") and args.sure is None:  # before anything is scored
            k_for((rule.value or 0.05) / (2 if rule.name == "any" else 1), len(files), _what(args, name, classes))
    if args.panel is not None:
        options["panel"] = args.panel
    if exported is None:
        reading = {name: getattr(args, name) for name in ("window", "bits", "max_pixels")}
        options |= {**halves.options(), **reading, **chosen_look(args, earlier)}
        loaded = load_model(**options, device=args.device, batch_size=args.batch_size)
        halves.fit(loaded, classes[0])
        if loaded.method.references is not None:  # before anything is scored
            for name, files in grouped.items():
                refuse_references(loaded.method, name, [one.path for one in files])
    else:
        exported.use_calibration(None)
    model = loaded if exported is None else exported
    others = {part: _found(getattr(args, part), args) for part in ("anomalous", "held_out", "pixel_images")}
    console = Console()
    for name, files in grouped.items():
        own = {part: [one for one in found if _class_of(one, args) == name] for part, found in others.items()}
        earlier = _one_class(args, console, model, rule, name, files, own, earlier, _what(args, name, classes), halves)
    return 0


def _one_class(
    args: argparse.Namespace,
    console: Console,
    model: BasePredictor,
    rule: Rule,
    class_name: str,
    files: list[Found],
    others: Mapping[str, list[Found]],
    earlier: Card | None,
    what: str,
    halves: Halves,
) -> Card:
    """Calibrate a class, add it to the card, and say what came out."""
    if others["pixel_images"]:
        seen = model.batches(others["pixel_images"], class_name, strict=True)
        args.pixel_threshold = pixel_quantile(
            chain.from_iterable(seen), args.pixel_quantile or 0.999, [one.path for one in files]
        )
    good = list(_seen(args, model, files, class_name, "good"))
    bad = list(_seen(args, model, others["anomalous"], class_name, "anomalous"))
    card = card_of(
        model, good, class_name, str(rule), sure=args.sure, anomalous=bad, prevalence=args.prevalence,
        regions=args.regions, pixel_threshold=args.pixel_threshold, min_area=args.min_area,
        mm_per_pixel=args.mm_per_pixel, groups=_groups(args, files), seed=args.seed, pooled=args.pooled, what=what,
    )  # fmt: skip
    entry = card.entry(class_name)
    if earlier is not None:
        card = earlier.joined(card)
    card.save(args.out)
    if args.into is not None:
        console.print(f"The card is in {ship(card, args.into)} now: score with --calibration shipped.")
    halves.tell(console)
    say_promise(console, class_name, entry)
    say_labelled(console, entry)
    highest = sorted(good, key=lambda one: -one.score)[:_HIGHEST]
    console.print(f"\nThe {len(highest)} highest scores among the good parts:", highlight=False)
    for one in highest:
        console.print(f"  {one.score:.5g}  {escape(one.path)}", highlight=False, soft_wrap=True)
    console.print("Are these good? If not, take them out and calibrate again: the card would miss defects.")
    held_out = list(_seen(args, model, others["held_out"], class_name, "held-out"))
    parts: list[str] = []
    if args.evaluate or held_out:
        names = None if args.group_by is None else group_names([one.path for one in good], args.group_by)
        parts = evaluation(console, class_name, entry, good, held_out, bad, names, args.seed)
    several = args.add or len(card.classes) > 1 or earlier is not None
    beside = args.out.with_suffix(f".{file_name(class_name)}.html" if several else ".html")
    page = write_page(beside, class_name, entry, highest, parts)
    console.print(f"\n{args.out} and {page.name}, to be looked at", highlight=False, soft_wrap=True)
    return card


def _rule(args: argparse.Namespace) -> Rule:
    if args.rule is not None and args.alpha is not None:
        raise ValueError(f"--alpha {args.alpha:g} beside --rule {args.rule}: write --rule far={args.alpha:g}.")
    if args.alpha is not None and not 0 < args.alpha < 1:
        raise ValueError(f"--alpha must be a share of good parts between 0 and 1, got {args.alpha:g}.")
    rule = Rule.read(args.rule if args.rule is not None else f"far={0.05 if args.alpha is None else args.alpha!r}")
    if rule.name not in ("far", "any") and not args.anomalous:
        raise ValueError(f"The rule {rule} needs normal and anomalous images: give --anomalous, or take --alpha 0.05.")
    if args.into is not None and args.into != args.checkpoint:
        raise ValueError(f"--into {args.into} must be the --checkpoint that scores, got {args.checkpoint}.")
    if (args.pixel_images or args.pixel_quantile) and args.pixel_threshold is not None:
        raise ValueError(f"--pixel-threshold {args.pixel_threshold:g} beside --pixel-images: take one of them.")
    if args.pixel_quantile is not None and not args.pixel_images:
        raise ValueError(f"--pixel-quantile {args.pixel_quantile:g} needs --pixel-images: other good parts.")
    if args.min_area and args.regions is None and rule.name != "any":
        raise ValueError(f"--min-area {args.min_area:g} is about regions: add --regions.")
    return rule


def _earlier(args: argparse.Namespace) -> Card | None:
    if not args.add:
        return None
    card = Card.load(args.out)
    if card.pooled or args.pooled:
        raise CardError(f"A pooled card has one entry for all classes: '{args.out}' cannot get another one.")
    return card


def _found(paths: Sequence[str], args: argparse.Namespace) -> FileList:
    """Return the images under paths, an empty list for none."""
    if not paths:
        return FileList.of([])
    naming = None if args.class_name_from is None else ClassNames(args.class_name_from)
    found = FileList(paths, args.exclude, slices=args.slices, naming=naming)
    if not len(found):
        raise FileNotFoundError(f"No images under {', '.join(map(repr, paths))}.")
    return found


def _class_of(found: Found, args: argparse.Namespace) -> str:
    return found.class_name or str(args.class_name)


def _refuse_several(args: argparse.Namespace, classes: Sequence[str]) -> None:
    for name in ("split", "panel", "pooled"):
        if getattr(args, name):
            raise ValueError(f"--{name} is for one class at a time, the good images show {list(classes)}.")
    if args.method is not None and get_method(args.method, by_hand=True).transductive:
        raise ValueError(f"{args.method} needs a panel for each class: calibrate {list(classes)} one at a time.")


def _grouped(files: list[Found], args: argparse.Namespace) -> list[Found]:
    """Return one image of each part, by the pattern or as a manifest says."""
    paths = [one.path for one in files]
    if args.group_by is not None:
        chosen = set(one_per_group(paths, args.group_by, args.seed))
    elif any(one.group is not None for one in files):
        chosen = set(one_of_each(paths, [one.group or one.path for one in files], args.seed))
    else:
        return files
    return [one for one in files if one.path in chosen]


def _groups(args: argparse.Namespace, files: list[Found]) -> dict[str, Any] | None:
    if args.group_by is not None:
        return {"pattern": args.group_by, "seed": args.seed}
    return {"manifest": "group", "seed": args.seed} if any(one.group is not None for one in files) else None


def _what(args: argparse.Namespace, class_name: str, classes: Sequence[str]) -> str:
    paths = " ".join(repr(path) for path in args.good)
    return paths if len(classes) == 1 else f"{paths}, class '{class_name}'"


def file_name(class_name: str) -> str:
    """Return a class as part of a file's name: no two classes have the same."""
    return f"class {quote(class_name, safe=' ')}"


def _seen(
    args: argparse.Namespace, model: BasePredictor, found: Sequence[Found], class_name: str, part: str
) -> Iterator[Seen]:
    """Score images, or go on where an earlier run stopped; in the order of the files."""
    if not found:
        return
    folder = args.out.with_name(f"{args.out.name.removesuffix('.json')}.run") / file_name(class_name) / part
    settings = {
        **model.identity(class_name),
        "where": model.where.identity(),
        "class_name": class_name,
        "pixel_threshold": args.pixel_threshold,
        "window": model.reading.limits,
    }
    files = FileList.of(found)
    with RowWriter(folder, settings, args.batch_size, args.fresh, files, prune=True) as writer:
        todo = (found for found in files if not writer.has(found.real))
        for batch in model.batches(todo, class_name, size="native", strict=True, num_workers=args.num_workers):
            rows = []
            for result in batch:
                seen = Seen.of(result, args.pixel_threshold)
                more = {"peak": float(f"{seen.peak:.9g}"), "area": seen.area, "digest": seen.digest}
                rows.append(Row.of(result, path=writer.shown(seen.path), explanation=more))
            writer.write(rows)
        scored = {writer.identity(row): row for row in writer.rows()}
    for file in files:
        row = scored[file.real]
        if row.score is None:
            raise ValueError(f"'{row.path}' has no score: {row.error}")
        kept = row.explanation
        yield Seen(row.path, row.score, kept["peak"], kept["area"], kept["digest"], row.where)
