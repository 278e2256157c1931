"""DAGM 2007: synthetic textures with weak labels."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.dataset import DataWarning
from zsad.datamodules.layout import child, images_in, pair
from zsad.types import Record


class DAGM(BenchmarkDataModule):
    """DAGM 2007, the ``Test`` folders: 10 synthetic textures, 6996 normal and 1054 anomalous test images.

    Layout: ``Class1/Test/0001.PNG`` with ``Class1/Test/Label/0001_label.PNG`` and ``Labels.txt``; names in any case,
    also nested as ``Class1/Class1``. An image is anomalous if it has a label image, which shows a filled ellipse
    *around* the defect, so pixel metrics measure overlap with ellipses.

    Terms: none named; "publicly available".
    """

    name = "dagm"

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records of all classes that are there."""
        assert self.facts is not None
        names = self.facts.classes
        root = self.locate(lambda path: any(_part(path, name, split) for name in names), f"<class>/{split.title()}")
        for name in names:
            if (folder := _part(root, name, split)) is None:
                continue
            images, labels = images_in(folder), child(folder, "Label")
            masks = images_in(labels) if labels else []
            marked = {path.stem.lower().removesuffix("_label") for path in masks}
            pairs = pair([image for image in images if image.stem.lower() in marked], masks, ("_label",))
            self._compare_with_list(folder, labels, {image.name.lower() for image in pairs})
            yield from (
                Record(image, name, int(image in pairs), pairs.get(image), "defect" if image in pairs else "")
                for image in images
            )

    def _compare_with_list(self, folder: Path, labels: Path | None, found: set[str]) -> None:
        """Warn if ``Labels.txt`` (index, 0 or 1, image name, 0, label name) calls other images defective."""
        path = child(labels, "Labels.txt") if labels else None
        if path is None:
            return
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        listed = {row[2].strip().lower() for row in rows if len(row) >= 3 and row[1].strip() == "1"}
        if listed and listed != found:
            warnings.warn(
                f"'{path}' lists other defective images than there are label images in '{folder}': "
                f"{sorted(listed ^ found)[:10]}; the label images decide.",
                DataWarning,
                stacklevel=2,
            )


def _part(root: Path, name: str, split: str) -> Path | None:
    for folder in (child(root, name), child(root / name, name)):
        if folder is not None and (part := child(folder, split)) is not None:
            return part
    return None
