"""ISIC 2016 task 1: skin lesions."""

from collections.abc import Iterator

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.layout import child, folders_in, images_in, pair
from zsad.images import list_images
from zsad.types import Record

_PARTS = {"test": "Test", "train": "Training"}


class ISIC(BenchmarkDataModule):
    """ISIC 2016 task 1, test part: 379 dermoscopic images, all with a lesion; pixel metrics only.

    Layout: ``ISBI2016_ISIC_Part1_Test_Data/ISIC_0000000.jpg`` with masks
    ``ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000000_Segmentation.png``, or AnomalyCLIP's ``skin/test/<any>/*.jpg``
    with the same folder of masks. The case of the mask's suffix does not matter.

    Terms: CC0, according to a secondary source.
    """

    name = "isic"

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records in either layout."""
        prefix = f"ISBI2016_ISIC_Part1_{_PARTS.get(split, split)}"
        for place in (*self.places("skin"), *folders_in(self.root)):
            masks = child(place, f"{prefix}_GroundTruth")
            images = child(place, f"{prefix}_Data", split)
            if masks is not None and images is not None:
                found = pair(list(list_images([images])), images_in(masks), ("_segmentation",))
                yield from (Record(image, "skin", 1, mask) for image, mask in found.items())
                return
        raise self.missing(f"'{prefix}_Data' (or skin/{split}) beside '{prefix}_GroundTruth' not found")
