"""Is a copy of a data set complete and readable?"""

import hashlib
import itertools
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.checks import DatasetNotFoundError, count_differences
from zsad.datamodules.dataset import describe
from zsad.datamodules.layout import PairingError
from zsad.images import ImageError, load_rgb, mask_levels
from zsad.images.manifest import ManifestError
from zsad.types import Record


@dataclass
class CheckReport:
    """What was found in a copy of a data set.

    Args:
        name: Key of the data set.
        root: Folder that was checked.
        problem: Why nothing could be read (layout, missing files, masks that do not match); None if the layout is fine.
        classes: Class -> numbers of ``normal`` and ``anomalous`` images, ``expected_*`` where they are known.
        count_differences: Where the numbers are not those of the papers.
        images: One entry per image (or part of one): ``image``, ``mask``, ``class_name``, ``label``, ``defect``,
            ``width``, ``height``, ``positive_pixels`` (None without a mask); paths below the root where possible.
        unreadable: Files that cannot be decoded, with the reason.
        mask_problems: Masks of another shape than their image, and masks that mark pixels of a normal image.
        empty_masks: Anomalous images whose mask marks nothing; such images do occur.
        many_levels: Masks with more than two grey levels, where ``mask_threshold`` matters.
        without_anomalies: Classes without an anomalous image, though the data set has some.
        without_normals: Classes without a normal image, though the data set has some.
        duplicates: Groups of images with the same bytes.
        unknown_labels: Images without a label.
        warnings: What else the data module had to say.
    """

    name: str
    root: str
    problem: str | None = None
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    count_differences: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    mask_problems: list[dict[str, str]] = field(default_factory=list)
    empty_masks: list[str] = field(default_factory=list)
    many_levels: list[str] = field(default_factory=list)
    without_anomalies: list[str] = field(default_factory=list)
    without_normals: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    unknown_labels: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether the copy can be used and compared: layout, counts, files and masks are as they should be.

        Duplicates, empty masks, many levels and missing labels do not make it bad: the originals have them too.
        """
        return not (self.problem or self.count_differences or self.unreadable or self.mask_problems)


def check(datamodule: BenchmarkDataModule, split: str = "test", progress: bool = False) -> CheckReport:
    """Open every image and mask of a part of a data set and report on them.

    Args:
        datamodule: Its ``counts`` option does not matter here.
        split: Which part.
        progress: Show a bar on stderr.
    """
    report = CheckReport(datamodule.name, str(datamodule.root))
    datamodule.counts = "ignore"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            records = datamodule.select(split)
    except (DatasetNotFoundError, PairingError, ManifestError, ImageError) as error:
        report.problem = str(error)
        return report
    report.warnings = sorted({str(one.message) for one in caught})
    expected = datamodule.expected_counts() if split == "test" else {}
    _tally(report, records.tally(), expected)
    if split == "test":
        report.count_differences = count_differences(records.tally(), expected, datamodule.classes)
    rows = _inspected(records, datamodule)
    hashes: dict[str, list[str]] = {}
    seen: set[Path] = set()
    for record, row in track(rows, "Reading", len(records), console=Console(stderr=True), disable=not progress):
        digest = row.pop("digest")
        if digest and record.image_path not in seen:
            hashes.setdefault(digest, []).append(_short(record.image_path, datamodule.root))
        seen.add(record.image_path)
        report.unknown_labels += record.label is None
        _judge(report, record, row)
    report.duplicates = [sorted(paths) for paths in hashes.values() if len(paths) > 1]
    return report


def _tally(report: CheckReport, found: dict[str, tuple[int, int]], expected: dict[str, tuple[int, int]]) -> None:
    for name, (normal, anomalous) in found.items():
        report.classes[name] = {"normal": normal, "anomalous": anomalous}
        if name in expected:
            report.classes[name] |= dict(zip(("expected_normal", "expected_anomalous"), expected[name], strict=True))
    normals, anomalies = ([name for name, pair in found.items() if pair[side]] for side in (0, 1))
    report.without_normals = [name for name in found if normals and name not in normals]
    report.without_anomalies = [name for name in found if anomalies and name not in anomalies]


def _inspected(records: Any, datamodule: BenchmarkDataModule) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Yield what each image and mask is like, reading ahead in threads (decoding leaves Python's lock)."""
    todo = iter(records)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(itertools.islice(todo, 64)):
            rows = pool.map(lambda record: _inspect(record, datamodule), chunk)
            yield from zip(chunk, rows, strict=True)


def _inspect(record: Record, datamodule: BenchmarkDataModule) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image": _short(describe(record), datamodule.root),
        "mask": None if record.mask_path is None else _short(record.mask_path, datamodule.root),
        "class_name": record.class_name,
        "label": record.label,
        "defect": record.defect,
        "width": None,
        "height": None,
        "positive_pixels": None,
        "digest": None,
    }
    try:
        size = load_rgb(record.image_path, datamodule.reading).size
        row["digest"] = hashlib.blake2b(record.image_path.read_bytes(), digest_size=16).hexdigest()
        row["width"], row["height"] = size if record.box is None else _extent(record.box)
    except ImageError as error:
        return row | {"error": str(error), "broken": row["image"]}
    if record.mask_path is None:
        return row
    try:
        levels = mask_levels(record.mask_path)
    except ImageError as error:
        return row | {"error": str(error), "broken": row["mask"]}
    row["levels"] = len(np.unique(levels))
    height, width = levels.shape
    if abs(size[0] * height / (size[1] * width) - 1) > 0.01:
        return row | {"shape": f"mask {width} x {height} pixels, image {size[0]} x {size[1]}"}
    marked = levels > datamodule.mask_threshold
    if record.box is not None:
        left, top, right, bottom = record.box
        marked = marked[top:bottom, left:right]
    row["positive_pixels"] = int(marked.sum())
    return row


def _judge(report: CheckReport, record: Record, row: dict[str, Any]) -> None:
    levels, error, broken, shape = (row.pop(key, None) for key in ("levels", "error", "broken", "shape"))
    report.images.append(row)
    if error is not None:
        report.unreadable.append({"file": broken, "error": error})
    elif shape is not None:
        report.mask_problems.append(
            {"image": row["image"], "mask": row["mask"], "error": f"other proportions: {shape}"}
        )
    elif record.label == 0 and row["positive_pixels"]:
        text = f"marks {row['positive_pixels']} pixels of a normal image"
        report.mask_problems.append({"image": row["image"], "mask": row["mask"], "error": text})
    elif record.label == 1 and row["positive_pixels"] == 0:
        report.empty_masks.append(row["image"])
    if levels is not None and levels > 2:
        report.many_levels.append(row["mask"])


def _extent(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _short(path: Path | str, root: Path) -> str:
    text = str(path)
    return text.removeprefix(f"{root}{os.sep}")
