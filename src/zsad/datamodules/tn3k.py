"""TN3K: thyroid nodules in ultrasound."""

from collections.abc import Iterator

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.layout import flat_pair
from zsad.types import Record

_PARTS = {"train": "trainval"}


class TN3K(BenchmarkDataModule):
    """TN3K, test part: 614 ultrasound images with a nodule each, benign or malignant; pixel metrics only.

    Layout: ``test-image/0000.jpg`` with ``test-mask/0000.jpg``, and ``trainval-image``, ``trainval-mask``. Masks are
    grey JPEG files and not binary: 12.84 % of the area is nonzero, 12.07 % above 127; see ``mask_threshold``.

    Terms: called open access, without a licence text.
    """

    name = "tn3k"

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records of a part."""
        part = _PARTS.get(split, split)
        images, masks = f"{part}-image", f"{part}-mask"
        root = self.locate(lambda path: (path / images).is_dir() and (path / masks).is_dir(), f"{images} and {masks}")
        yield from flat_pair(root / images, root / masks, "thyroid")
