"""MVTec AD 2: 8 scenarios, with public and private test parts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.layout import mvtec_class
from zsad.images import list_images
from zsad.types import Record

_PARTS = {"valid": "validation"}


class MVTecAD2(BenchmarkDataModule):
    """MVTec AD 2: 8 classes photographed under changing light; labels and masks for the public test part only.

    Layout (read in anomalib's code, not on the files): ``<class>/test_public/{good,bad}/*.png`` with masks
    ``<class>/test_public/ground_truth/bad/*_mask.png``; ``<class>/test_private`` and ``test_private_mixed`` without
    labels. The parts ``train`` and ``valid`` hold normal images.

    Terms: CC BY-NC-SA 4.0.

    Args:
        root: Folder of the class folders.
        test_part: Which test images; the private ones give predictions, no metrics.
        **options: Those of :class:`~zsad.datamodules.base.BenchmarkDataModule`.
    """

    name = "mvtec_ad2"

    def __init__(
        self,
        root: str | Path,
        test_part: Literal["public", "private", "private_mixed"] = "public",
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        if test_part not in ("public", "private", "private_mixed"):
            raise ValueError(f"test_part must be 'public', 'private' or 'private_mixed', got {test_part!r}.")
        self.test_part = test_part

    @property
    def has_masks(self) -> bool:
        """Whether test batches carry ``gt_mask``: only those of the public part."""
        return self.test_part == "public"

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records of a part."""
        assert self.facts is not None
        part = f"test_{self.test_part}" if split == "test" else _PARTS.get(split, split)
        names = self.facts.classes
        root = self.locate(lambda path: any((path / name / part).is_dir() for name in names), f"<class>/{part}")
        for name in names:
            folder = root / name
            if not (folder / part).is_dir():
                continue
            if split == "test" and self.test_part != "public":
                yield from (Record(path, name) for path in list_images([folder / part]))
            else:
                yield from mvtec_class(folder, name, part, masks=folder / part / "ground_truth")
