"""Write a cut or selected copy of a data set; the originals are only read."""

import json
import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.sdd import PREPARED
from zsad.images import load_mask, load_rgb
from zsad.types import Record

Files = Literal["copy", "symlink"]
_KINDS = {"visa": ("good", "bad"), "sdd": ("good", "defect"), "covid19": ("NORMAL", "COVID-19")}


def prepare(datamodule: BenchmarkDataModule, out: Path, files: Files = "copy", progress: bool = False) -> int:
    """Write the test images of VisA, SDD or COVID-19 in a layout of their own and return how many.

    VisA becomes ``<class>/test/{good,bad}`` by its split file, SDD ``electrical commutators/test/{good,defect}`` with
    its pieces as PNG files ``<item>_<part>_<number>.png``, COVID-19 ``NORMAL`` and ``COVID-19`` with the chosen images.
    Masks go to ``<class>/ground_truth`` as 0 and 255. The same data module reads the result.

    Args:
        datamodule: Reads the originals, with its options (pieces, limits, classes).
        out: New folder; written under another name and renamed at the end.
        files: Copy uncut images, or link to them.
        progress: Show a bar on stderr.

    Raises:
        ValueError: The data set is read as it is, and needs no preparation; or ``out`` lies within the originals.
        FileExistsError: ``out`` exists.
    """
    if datamodule.name not in _KINDS:
        raise ValueError(
            f"'{datamodule.name}' needs no preparation: it is read as downloaded. Prepared are {', '.join(_KINDS)}."
        )
    if out.exists():
        raise FileExistsError(f"'{out}' exists already; give a new folder.")
    if out.resolve().is_relative_to(datamodule.root.resolve()):
        raise ValueError(f"'{out}' lies within '{datamodule.root}', whose files are not touched; give another folder.")
    records = datamodule.select()
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shown = track(records, "Writing", len(records), console=Console(stderr=True), disable=not progress)
        for record in shown:
            _write(record, datamodule, partial, files)
        recipe = {
            name: getattr(datamodule, name) for name in ("pieces", "normal_fraction") if hasattr(datamodule, name)
        }
        (partial / PREPARED).write_text(json.dumps({"name": datamodule.name, "images": len(records)} | recipe))
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(records)


def _write(record: Record, datamodule: BenchmarkDataModule, out: Path, files: Files) -> None:
    kind = _KINDS[datamodule.name][record.label == 1]
    folder = out / kind if datamodule.name == "covid19" else out / record.class_name / "test" / kind
    folder.mkdir(parents=True, exist_ok=True)
    cut = datamodule.name == "sdd"
    stem = record.image_path.stem
    if cut:
        stem = f"{record.image_path.parent.name}_{stem}_{_number(record)}"
        image = load_rgb(record.image_path)
        (image if record.box is None else image.crop(record.box)).save(folder / f"{stem}.png")
    else:
        _place(record.image_path, folder / record.image_path.name, files)
    if record.label == 1 and record.mask_path is not None:
        mask = load_mask(record.mask_path, datamodule.mask_threshold)
        if record.box is not None:
            left, top, right, bottom = record.box
            mask = mask[top:bottom, left:right]
        truth = out / record.class_name / "ground_truth" / kind
        truth.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(truth / f"{stem}.png")


def _number(record: Record) -> int:
    """Return the position of a piece in its image, from the top."""
    if record.box is None:
        return 0
    _, top, _, bottom = record.box
    return round(top / (bottom - top))


def _place(source: Path, target: Path, files: Files) -> None:
    if target.exists():
        raise FileExistsError(f"Two images would be called '{target}'; '{source}' is the second.")
    if files == "symlink":
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)
