"""Brain scans with image labels only: HeadCT, BrainMRI, Br35H."""

import csv
from collections.abc import Iterator
from pathlib import Path

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.layout import PairingError, child, folders_in, images_in, mvtec_class
from zsad.types import Record


class HeadCT(BenchmarkDataModule):
    """HeadCT: 100 normal CT slices and 100 with a haemorrhage; image metrics only.

    Layout: ``labels.csv`` (a header, then ``id, flag`` with flag 1 for a haemorrhage) and ``000.png`` and so on below
    ``head_ct/`` or ``head_ct/head_ct/``; or rearranged as ``{brain,headct}/test/{good,<other>}``.

    Terms: unverified.
    """

    name = "headct"

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records in either layout.

        Raises:
            PairingError: The list and the files differ.
        """
        for place in (*self.places("brain", "headct"), *folders_in(self.root)):
            if child(place / split, "good") is not None:
                yield from mvtec_class(place, "brain", split, require_masks=False)
                return
        if split != "test":
            raise self.missing(f"no part '{split}' (it is not split)")
        root = self.locate(lambda path: (path / "labels.csv").is_file(), "labels.csv or {brain,headct}/test/good")
        for folder in (root / "head_ct" / "head_ct", root / "head_ct", root):
            images = {int(path.stem): path for path in images_in(folder) if path.stem.isdigit()}
            if images:
                yield from self._listed(root / "labels.csv", images)
                return
        raise self.missing("labels.csv is there, but no head_ct/000.png")

    def _listed(self, path: Path, images: dict[int, Path]) -> Iterator[Record]:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, skipinitialspace=True) if row][1:]
        labels = {int(row[0]): int(row[1]) for row in rows}
        if labels.keys() != images.keys():
            differing = sorted(labels.keys() ^ images.keys())
            raise PairingError(f"'{path}' and the images beside it differ in the numbers {differing[:10]}.")
        for number, image in images.items():
            yield Record(image, "brain", labels[number], None, "hemorrhage" if labels[number] else "")


class YesNo(BenchmarkDataModule):
    """Scans sorted into ``no`` (normal) and ``yes`` (tumour); image metrics only."""

    folders: tuple[str, ...] = ()
    """Names of folders that may hold the two, tried first, then the root, then any folder below."""

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records; there is only a test part."""
        if split != "test":
            raise self.missing(f"no part '{split}' (it is not split)")
        for place in (*self.places(*self.folders), *folders_in(self.root)):
            normal, tumour = child(place, "no"), child(place, "yes")
            if normal is not None and tumour is not None:
                yield from (Record(path, "brain", 0, None, "no") for path in images_in(normal))
                yield from (Record(path, "brain", 1, None, "yes") for path in images_in(tumour))
                return
        raise self.missing("folders 'no' and 'yes' not found")


class BrainMRI(YesNo):
    """BrainMRI: 98 normal MRI slices and 155 with a tumour; image metrics only.

    Layout: ``brain_tumor_dataset/{no,yes}/*``. The archive may hold the two folders twice; they are read once.

    Terms: unverified.
    """

    name = "brainmri"
    folders = ("brain_tumor_dataset",)


class Br35H(YesNo):
    """Br35H: 1500 normal MRI slices and 1500 with a tumour; image metrics only.

    Layout: ``{no,yes}/*``, in the root or one level below; ``pred/`` and the Mask-RCNN folder are passed over.

    Terms: unverified.
    """

    name = "br35h"
