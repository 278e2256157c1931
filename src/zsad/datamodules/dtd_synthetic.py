"""DTD-Synthetic: textures with painted-in defects."""

from zsad.datamodules.mvtec import MVTecLike


class DTDSynthetic(MVTecLike):
    """DTD-Synthetic: 12 textures, 357 normal and 947 anomalous test images in all (per-class counts are not known).

    Layout: that of MVTec AD, in the root or one level below; masks with or without ``_mask`` in their names. A user of
    the AnomalyCLIP repository reports that the download has another layout; the error then lists what is missing.

    Terms: none stated.
    """

    name = "dtd_synthetic"
