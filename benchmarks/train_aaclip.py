"""Train both stages of AA-CLIP in order; run it again after an interruption and it goes on where it stopped.

Example: ``python benchmarks/train_aaclip.py --root data/VisA --out runs/aaclip``. Few-shot:
``--fit=--data.init_args.shots=16 --fit=--data.init_args.shot_draw=balanced --fit=--data.init_args.seed=0``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from zsad.cli.main import main as zsad

CONFIGS = Path(__file__).parent / "configs" / "aaclip"
STAGES = ("text", "image")
_CHECKPOINTS = "lightning.pytorch.callbacks.ModelCheckpoint"


def stage_arguments(stage: str, out: Path, overlays: Sequence[Path], common: Sequence[str]) -> list[str]:
    """Return the arguments of ``zsad`` that start or continue one stage.

    Args:
        stage: ``"text"`` or ``"image"``.
        out: Folder of the whole training; each stage has a folder of its own in it.
        overlays: Configs laid over the stage's, in order.
        common: Further arguments.
    """
    arguments = ["fit", "--config", str(CONFIGS / f"{stage}.yaml")]
    for overlay in overlays:
        arguments += ["--config", str(overlay)]
    arguments += [
        f"--model.init_args.stage={stage}",
        f"--trainer.default_root_dir={out / stage}",
        f"--trainer.callbacks={_CHECKPOINTS}",
        f"--trainer.callbacks.dirpath={out / stage}",
        "--trainer.callbacks.filename={epoch}",
        "--trainer.callbacks.save_top_k=-1",
        "--trainer.callbacks.save_last=true",
        *common,
    ]
    if stage == "image":
        arguments.append(f"--model.init_args.text_checkpoint={out / 'text' / 'last.ckpt'}")
    last = out / stage / "last.ckpt"
    if last.is_file():  # a finished stage has nothing left to do and returns at once
        arguments.append(f"--ckpt_path={last}")
    return arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both stages; return the exit status of the first that fails, or 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the training data (VisA in the paper)")
    parser.add_argument("--out", type=Path, default=Path("runs/aaclip"), help="folder for the checkpoints")
    parser.add_argument("--data", help="data set to train on, VisA by default")
    parser.add_argument("--backbone", help="ViT-L-14-336/openai by default")
    parser.add_argument("--config", type=Path, action="append", default=[], help="config laid over both stages")
    parser.add_argument("--epochs", type=int, nargs=2, metavar=("TEXT", "IMAGE"), help="5 and 20 by default")
    parser.add_argument("--fit", action="append", default=[], metavar="ARGUMENT", help="argument for both 'zsad fit'")
    options = parser.parse_args(arguments)
    given = {
        "--data": options.data,
        "--data.init_args.root": options.root,
        "--model.init_args.backbone": options.backbone,
    }
    common = [f"{flag}={value}" for flag, value in given.items() if value is not None] + options.fit
    for number, stage in enumerate(STAGES):
        epochs = [f"--trainer.max_epochs={options.epochs[number]}"] if options.epochs else []
        status = zsad(stage_arguments(stage, options.out, options.config, [*common, *epochs]))
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
