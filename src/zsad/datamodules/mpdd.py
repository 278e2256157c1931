"""MPDD: painted and machined metal parts."""

from zsad.datamodules.mvtec import MVTecLike


class MPDD(MVTecLike):
    """Metal Parts Defect Detection: 6 classes of metal parts, 176 normal and 282 anomalous test images.

    Layout: that of MVTec AD, masks ``<class>/ground_truth/<defect>/000_mask.png``. The class ``tubes`` has the one
    defect folder ``anomalous``. Some downloads lack classes; the count check tells.

    Terms: none in the repository; third parties say CC BY-NC-SA 4.0.
    """

    name = "mpdd"
