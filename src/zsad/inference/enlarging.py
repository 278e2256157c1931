"""A finished map at the size of its picture."""

import numpy as np
import torch
from numpy.typing import NDArray

from zsad.functional.maps import upsample


def enlarged(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a map (height, width) bilinearly at another size (height, width); the map itself if it has that size."""
    if anomaly_map.shape == size:
        return anomaly_map  # without a copy: maps of large pictures are large
    return upsample(torch.from_numpy(anomaly_map)[None], size)[0].numpy()
