"""Polyps in the colon: CVC-ClinicDB, CVC-ColonDB, CVC-300, Kvasir-SEG, EndoTect."""

from collections.abc import Iterator

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.layout import child, flat_pair
from zsad.types import Record


class PolypSet(BenchmarkDataModule):
    """A folder of images and a folder of masks, all images anomalous; pixel metrics only."""

    folder: str = ""
    """Name of the folder that holds both, where the root does not do so itself."""
    layouts: tuple[tuple[str, str], ...] = (("images", "masks"),)
    """Names of the two folders."""

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records; there is only a test part."""
        if split != "test":
            raise self.missing(f"no part '{split}' (it is not split)")
        for place in self.places(self.folder):
            for layout in self.layouts:
                images, masks = (child(place, name) for name in layout)
                if images is not None and masks is not None:
                    yield from flat_pair(images, masks, "colon")
                    return
        choices = " or ".join(f"{self.folder}/{{{','.join(layout)}}}" for layout in self.layouts)
        raise self.missing(f"{choices} not found")


class CVCClinicDB(PolypSet):
    """CVC-ClinicDB: 612 colonoscopy frames with a polyp each.

    Layout: ``CVC-ClinicDB/images/1.png`` with ``CVC-ClinicDB/masks/1.png`` (the re-packing of PraNet that the papers
    use), or the original ``Original/1.tif`` with ``Ground Truth/1.tif``.

    Terms: research and education only.
    """

    name = "cvc_clinicdb"
    folder = "CVC-ClinicDB"
    layouts = (("images", "masks"), ("Original", "Ground Truth"))


class CVCColonDB(PolypSet):
    """CVC-ColonDB: 380 colonoscopy frames with a polyp each; the anomalous part of :class:`ColonTrain`.

    Layout: ``CVC-ColonDB/images/1.png`` with ``CVC-ColonDB/masks/1.png``. The frames are believed to come from the
    same videos as CVC-300.

    Terms: research only, originally on request.
    """

    name = "cvc_colondb"
    folder = "CVC-ColonDB"


class CVC300(PolypSet):
    """CVC-300: 60 colonoscopy frames with a polyp each.

    Layout: ``CVC-300/images/149.png`` with ``CVC-300/masks/149.png``.

    Terms: research only.
    """

    name = "cvc_300"
    folder = "CVC-300"


class Kvasir(PolypSet):
    """Kvasir-SEG: 1000 endoscopy frames with polyps.

    Layout: ``Kvasir/images/*.png`` with ``Kvasir/masks/*.png``, or the vendor's archive with JPEG for both. Masks are
    not binary: levels of 0 to 7 and 248 to 255 occur at borders, which the nonzero rule counts as polyp; see
    ``mask_threshold``.

    Terms: academic use without asking, commercial use on request.
    """

    name = "kvasir"
    folder = "Kvasir"


class Endo(PolypSet):
    """EndoTect 2020, the polyp test set: 200 endoscopy frames with polyps.

    Layout: ``EndoTect_2020_Segmentation_Test_Dataset/images/*.jpg`` with ``masks/*.png`` (RGB, 0 and 255); other
    folders beside these two are passed over.

    Terms: those of HyperKvasir, CC BY 4.0, according to a secondary source.
    """

    name = "endo"
    folder = "EndoTect_2020_Segmentation_Test_Dataset"
