"""Lists of images in the formats that other repositories read."""

import json
import os
from pathlib import Path
from typing import Any, Literal

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.checks import DatasetNotFoundError
from zsad.images.cells import write_cells
from zsad.types import Record

Kind = Literal["meta", "jsonl", "csv"]
_COLUMNS = ("image_path", "label", "mask_path", "class_name", "defect", "split")


def export(datamodule: BenchmarkDataModule, out: Path, kind: Kind = "meta") -> int:
    """Write the list of a data set and return the number of its test images.

    Args:
        datamodule: What to list.
        out: The file. Paths in it are relative to its folder, as the readers of ``meta.json`` expect.
        kind: ``"meta"``: ``meta.json`` of AnomalyCLIP, VAND, AnoVL and AdaCLIP, with the train part where there is one;
            ``"jsonl"``: the index of AA-CLIP, test part; ``"csv"``: a manifest for :class:`~zsad.datamodules.Folder`.

    Raises:
        ValueError: The images are parts of files (SDD as downloaded), or ``kind`` is unknown.
    """
    test = datamodule.select("test")
    if any(record.box is not None for record in test):
        raise ValueError(
            f"'{datamodule.name}' is cut while reading, and a list of files cannot say so; "
            f"write the pieces with: zsad data prepare {datamodule.name}, then export those."
        )
    if kind == "meta":
        content = {"train": _by_class(_train(datamodule), out), "test": _by_class(list(test), out)}
        text = json.dumps(content, indent=1, ensure_ascii=False)
    elif kind == "jsonl":
        text = "\n".join(json.dumps(_aa_clip(record, out), ensure_ascii=False) for record in test) + "\n"
    elif kind == "csv":
        with out.open("w", newline="", encoding="utf-8") as file:
            write_cells(file, [_COLUMNS, *(_row(record, out) for record in test)])
        return len(test)
    else:
        raise ValueError(f"kind must be 'meta', 'jsonl' or 'csv', got {kind!r}.")
    out.write_text(text, encoding="utf-8")
    return len(test)


def _train(datamodule: BenchmarkDataModule) -> list[Record]:
    try:
        return list(datamodule.select("train"))
    except (DatasetNotFoundError, ValueError):  # many benchmarks have a test part only
        return []


def _by_class(records: list[Record], out: Path) -> dict[str, list[dict[str, Any]]]:
    entries: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        entry = {
            "img_path": _relative(record.image_path, out),
            "mask_path": _relative(record.mask_path, out) if record.label and record.mask_path else "",
            "cls_name": record.class_name,
            "specie_name": record.defect,
            "anomaly": record.label,
        }
        entries.setdefault(record.class_name, []).append(entry)
    return entries


def _aa_clip(record: Record, out: Path) -> dict[str, Any]:
    entry = {
        "image_path": _relative(record.image_path, out),
        "label": None if record.label is None else float(record.label),
        "class_name": record.class_name,
    }
    if record.label and record.mask_path:
        entry["mask_path"] = _relative(record.mask_path, out)
    return entry


def _row(record: Record, out: Path) -> tuple[str | int, ...]:
    mask = "" if record.mask_path is None else _relative(record.mask_path, out)
    label = "" if record.label is None else record.label
    return _relative(record.image_path, out), label, mask, record.class_name, record.defect, "test"


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.absolute(), out.absolute().parent)).as_posix()
