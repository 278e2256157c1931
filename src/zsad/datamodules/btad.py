"""BTAD: three industrial products."""

from zsad.datamodules.mvtec import MVTecLike


class BTAD(MVTecLike):
    """BeanTech Anomaly Detection: products 01, 02 and 03, 451 normal and 290 anomalous test images.

    Layout: ``<class>/test/{ok,ko}/0000.{bmp,png}``, masks ``<class>/ground_truth/ko/0000.{png,bmp}``: equal stems, but
    not always equal extensions. The normal folder is ``ok``. Class 03 holds 400 of the 451 normal images. A copy whose
    files were all turned into PNG is read as well.

    Terms: unclear; third parties say CC BY-NC-SA 4.0.
    """

    name = "btad"
    normal_folder = "ok"

    def spell_class(self, name: object) -> str:
        """Return the class with its leading zero, which YAML and CSV readers lose: 1 is ``"01"``."""
        return str(name).zfill(2)
