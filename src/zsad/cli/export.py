"""``zsad export``: a model as a folder that scores images without torch, with the proof that it does."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from zsad.cli.model_options import add_model_options, chosen_classes, chosen_model, model_parser
from zsad.decision import Card
from zsad.inference import load_model


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = model_parser(
        "zsad export",
        "Write a model as a folder with all that it takes to score images and to serve them, without torch "
        "and without zsad: the graph, run.py, a page. The folder is read back and compared with the model.",
        "Exit status: 0; 1 if the folder differs from the model, which is then kept as DIR.failed; 2 for an error.",
    )
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write; must not exist")
    add_model_options(made, several=True)
    made.add_argument("--words", type=Path, metavar="FILE", help="more classes, one a line")
    made.add_argument("--format", choices=("onnx", "pt2"), default="onnx", help="default: %(default)s")
    made.add_argument("--quantize", choices=("int8",), help="weights in eight bits: a third of the size; a report")
    made.add_argument("--calibration", type=Path, metavar="CARD", help="of 'zsad calibrate', to lie in the folder")
    made.add_argument("--verify", type=Path, metavar="DIR", help="images to compare on besides generated ones")
    made.add_argument("--no-verify", action="store_true", help="do not compare")
    made.add_argument("--tolerance", type=float, default=1e-5, help="allowed difference (default: %(default)g)")
    made.add_argument("--labels", type=Path, metavar="FILE", help="of the images of --verify: AUROC with --quantize")
    made.add_argument("--max-flips", type=float, default=0.01, help="share of labels int8 may change (default: 0.01)")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0, or 1 if the folder differs from the model."""
    from zsad.deploy.exporting import Verification, export
    from zsad.deploy.verify import VerificationError

    args = parser().parse_args(arguments)
    console = Console()
    card = None if args.calibration is None else Card.load(args.calibration)
    names = chosen_classes(args, card, _words(args.words))
    verify = None if args.no_verify else Verification(args.verify, args.tolerance, args.labels, args.max_flips)
    model = load_model(**chosen_model(args, card), device="cpu")
    try:
        folder = export(
            model, args.out, names, format=args.format, quantize=args.quantize, calibration=card,
            verify=verify,
        )  # fmt: skip
    except VerificationError as error:
        Console(stderr=True).print(f"zsad: error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    _tell(console, folder)
    return 0


def _words(path: Path | None) -> list[str]:
    if path is None:
        return []
    found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found:
        raise ValueError(f"'{path}' names no class: one a line.")
    return found


def _tell(console: Console, folder: Path) -> None:
    from zsad.deploy.folder import read_meta

    meta = read_meta(folder, check=False)
    size = sum(path.stat().st_size for path in folder.glob("model.*"))
    console.print(f"{folder}: {size / 1e6:.1f} MB, precision {meta['precision']}", highlight=False, soft_wrap=True)
    for engine, one in meta["verification"].items():
        console.print(
            f"  {engine} differs from the model by at most {one['score']:.2g} (scores, range {one['score_range']:.2g}) "
            f"and {one['map']:.2g} (maps, range {one['map_range']:.2g})",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if not meta["verification"]:
        console.print("  nobody compared it with the model (--no-verify)")
    if (folder / "run.py").is_file():
        console.print(f"Next: python {folder / 'run.py'} PHOTOS --out results", highlight=False, soft_wrap=True)
