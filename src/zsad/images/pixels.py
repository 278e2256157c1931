"""An upright picture at the model's size as 8-bit numbers: Pillow resizes, for torch and for other engines alike."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.images.picture import Size

if TYPE_CHECKING:
    from zsad.types import ImageProtocol

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def model_pixels(image: Image.Image, protocol: "ImageProtocol") -> NDArray[np.uint8]:
    """Return an RGB picture resized as the protocol says, (3, height, width).

    Resizing is Pillow's own (antialiased, on 8-bit values), as in the released code of the methods.
    """
    height, width = resized((image.height, image.width), protocol)
    image = image.resize((width, height), _FILTERS[protocol.interpolation])
    return np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0))


def resized(size: Size, protocol: "ImageProtocol") -> Size:
    """Return (height, width) that an image of ``size`` has for the model."""
    if protocol.resize == "squash":
        return protocol.size, protocol.size
    height, width = size
    longer = int(protocol.size * max(size) / min(size))
    return (protocol.size, longer) if height <= width else (longer, protocol.size)


def enlarged(anomaly_map: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Return a map (height, width) bilinearly at another size (height, width), pixels being areas, not points."""
    for axis, length in enumerate(size):
        old = anomaly_map.shape[axis]
        if old == length:
            continue
        scale = np.float64(np.float32(old / length))  # torch's places are in single precision, rounded once
        place = np.maximum(((np.arange(length) + 0.5) * scale - 0.5).astype(np.float32), 0)
        low = np.minimum(place.astype(np.int64), old - 1)
        share = (place - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        high = np.minimum(low + 1, old - 1)
        anomaly_map = (1 - share) * anomaly_map.take(low, axis) + share * anomaly_map.take(high, axis)
    return np.ascontiguousarray(anomaly_map, dtype=np.float32)
