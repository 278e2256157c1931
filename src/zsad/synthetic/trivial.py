"""Two scores that need no model: a method that does not beat them on the synthetic benchmark has learned nothing."""

import numpy as np
from numpy.typing import NDArray


def centre_prior(height: int, width: int) -> NDArray[np.float32]:
    """Return a map (height, width) that is 1 in the middle and falls with the distance, 0 in the corners.

    Things lie in the middle of pictures, and so do their defects. The map is the same for every image; it gives no
    image score.
    """
    y = (np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1
    x = (np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1
    corner = np.hypot(y[0], x[0])
    return (1 - np.hypot(y[:, None], x[None, :]) / corner).astype(np.float32)


def colour_outlier(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Return how far each pixel's colour is from the image's mean colour, and the largest such distance.

    Args:
        image: RGB, (height, width, 3) uint8.

    Returns:
        Map (height, width) and image score, both Euclidean distances in units of the full range of one channel.

    Raises:
        ValueError: If the image has another shape or type.

    Example:
        >>> grey = np.full((2, 2, 3), 51, np.uint8)
        >>> colour_outlier(grey)[1]
        0.0
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"Expected an RGB image (height, width, 3) of uint8, got shape {image.shape}, {image.dtype}.")
    pixels = image.astype(np.float32) / 255
    distance = np.linalg.norm(pixels - pixels.mean((0, 1)), axis=-1)
    return distance.astype(np.float32), float(distance.max())
