"""MVTec AD: 15 classes of objects and textures."""

from collections.abc import Iterator
from pathlib import Path

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.layout import mvtec_class
from zsad.types import Record


class MVTecLike(BenchmarkDataModule):
    """A benchmark in MVTec AD's folders: ``<class>/<split>/<defect>/*``, masks ``<class>/ground_truth/<defect>/*``."""

    normal_folder: str = "good"
    """Folder of the normal images in each split."""

    def class_folders(self, split: str) -> dict[str, Path]:
        """Return class -> its folder, for the known classes that have the split.

        Raises:
            DatasetNotFoundError: There is none, neither in the root nor one level below.
        """
        assert self.facts is not None
        names = self.facts.classes
        root = self.locate(lambda path: any((path / name / split).is_dir() for name in names), f"<class>/{split}")
        return {name: root / name for name in names if (root / name / split).is_dir()}

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records of all classes that are there."""
        for name, folder in self.class_folders(split).items():
            yield from mvtec_class(folder, name, split, (self.normal_folder,))


class MVTecAD(MVTecLike):
    """MVTec AD: photographs of 10 objects and 5 textures, 467 normal and 1258 anomalous test images.

    Layout: ``<class>/test/<defect>/000.png`` with masks ``<class>/ground_truth/<defect>/000_mask.png``; ``good`` holds
    the normal images and has no mask folder. Files beside these folders are passed over.

    Terms: CC BY-NC-SA 4.0, no commercial use.
    """

    name = "mvtec_ad"
