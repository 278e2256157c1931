"""VisA: 12 objects, with the split of its own csv file."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from zsad.datamodules.layout import folders_in
from zsad.datamodules.mvtec import MVTecLike
from zsad.images.manifest import ManifestError
from zsad.types import Record

_SPLIT_FILE = Path("split_csv", "1cls.csv")


class VisA(MVTecLike):
    """VisA: printed circuit boards, capsules, macaroni and other objects, 962 normal and 1200 anomalous test images.

    Layout as downloaded: ``<class>/Data/Images/{Normal,Anomaly}/*.JPG``, ``<class>/Data/Masks/Anomaly/*.png`` and
    ``split_csv/1cls.csv``, whose rows with ``split=test`` are the benchmark (without it all 9621 normal images would
    be taken, so it is required). The rearranged tree ``<class>/{train,test}/{good,bad}``, ``<class>/ground_truth/bad``
    is read as well. Masks hold the kind of defect, 1 to 9, and look black in a viewer.

    Terms: CC BY 4.0.
    """

    name = "visa"

    def records(self, split: str) -> Iterator[Record]:
        """Yield the rows of the csv file, or the files of the rearranged tree.

        Raises:
            DatasetNotFoundError: Neither is there, or a file of the csv is missing.
        """
        assert self.facts is not None
        places = [self.root, *folders_in(self.root)]
        if any((place / name / split).is_dir() for place in places for name in self.facts.classes):
            yield from super().records(split)
            return
        root = self.locate(lambda path: (path / _SPLIT_FILE).is_file(), f"'{_SPLIT_FILE}' (the split of VisA)")
        with (root / _SPLIT_FILE).open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                if row["split"] == split and row["object"] in (self.classes or self.facts.classes):
                    yield self._record(root, row)

    def _record(self, root: Path, row: dict[str, str]) -> Record:
        anomalous = row["label"] != "normal"
        paths = [root / row["image"]] + ([root / row["mask"]] if anomalous else [])
        for path in paths:
            if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root)):
                raise ManifestError(f"'{root / _SPLIT_FILE}' names '{path}', which lies outside '{root}'.")
            if not path.is_file():
                raise self.missing(f"'{path}', listed in '{_SPLIT_FILE}', not found")
        return Record(paths[0], row["object"], int(anomalous), paths[1] if anomalous else None, row["label"])
