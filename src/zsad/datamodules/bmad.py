"""BMAD: slices of brain MRI, liver CT and retina OCT."""

from collections.abc import Iterator
from pathlib import Path

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.layout import child, folders_in, images_in, pair
from zsad.types import Record


class BMAD(BenchmarkDataModule):
    """One organ of BMAD: ``test/good/img``, ``test/Ungood/img`` and ``test/Ungood/label``; masks have the image's name.

    The archives that MVFA's repository offers call the masks' folder ``anomaly_mask``. A ``label`` folder of normal
    images is passed over, the part ``valid`` is read only if asked for by name. Images may also lie directly in
    ``good`` and ``Ungood``.
    """

    organ: str = ""
    """Raw class name; the folder's name begins with it, whatever its case."""

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records of a part: ``train``, ``valid`` or ``test``."""
        normal, anomalous = self._folders(split)
        yield from (Record(path, self.organ, 0, None, "good") for path in _images(normal))
        if anomalous is not None:
            labels = child(anomalous, "label") or child(anomalous, "anomaly_mask")
            pairs = pair(_images(anomalous), images_in(labels) if labels else [])
            yield from (Record(image, self.organ, 1, mask, "Ungood") for image, mask in pairs.items())

    def _folders(self, split: str) -> tuple[Path, Path | None]:
        named = [folder for folder in folders_in(self.root) if folder.name.lower().startswith(self.organ.lower())]
        for place in (*named, self.root):
            part = child(place, split)
            normal = child(part, "good") if part is not None else None
            if part is not None and normal is not None:
                anomalous = child(part, "Ungood")
                if split != "test" or anomalous is not None:
                    return normal, anomalous
        raise self.missing(f"{self.organ}*/{split}/good and Ungood not found")


class BMADBrain(BMAD):
    """BMAD Brain MRI (from BraTS 2021): 640 normal and 3075 anomalous test slices.

    The supplement of AA-CLIP prints 1013 anomalous slices; its released index and log have 3075. One patient gives many
    slices.

    Terms: CC BY-NC-SA 4.0 according to a third party; the sources have their own.
    """

    name = "bmad_brain"
    organ = "Brain"


class BMADLiver(BMAD):
    """BMAD Liver CT (from BTCV and LiTS): 833 normal and 660 anomalous test slices.

    Terms: CC BY-NC-SA 4.0 according to a third party; the sources have their own.
    """

    name = "bmad_liver"
    organ = "Liver"


class BMADRetina(BMAD):
    """BMAD Retina OCT (RESC): 1041 normal and 764 anomalous test slices.

    Terms: CC BY-NC-SA 4.0 according to a third party; the source has its own.
    """

    name = "bmad_retina"
    organ = "Retina"


def _images(folder: Path) -> list[Path]:
    return images_in(child(folder, "img") or folder)
