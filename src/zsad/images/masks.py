"""A mask file becomes one number per pixel."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.images.levels import Extent, ReadOptions
from zsad.images.opening import NO_LIMIT, open_image, open_scan
from zsad.images.picture import ImageError, reason
from zsad.images.scan import as_mask
from zsad.images.upright import full_scale, upright


def load_mask(path: str | Path, threshold: int = 0) -> NDArray[np.bool_]:
    """Return which pixels of a mask file are marked, at the file's own size.

    A pixel is marked if its stored value exceeds ``threshold``; in a palette file that value is the index, not the
    colour, in a colour file the largest channel, without alpha. The mask is turned like its image if it carries EXIF.

    Args:
        path: The mask file.
        threshold: 0 for "not zero", the published rule. A level of 1 to 254 is one of 0..255; masks with more than
            8 bits are brought to that range first (their smallest nonzero values still exceed 0).

    Returns:
        Array of shape (height, width).

    Raises:
        ImageError: As for :func:`load_rgb`.
        ValueError: ``threshold`` is not in 0..254.
    """
    if not 0 <= threshold <= 254:
        raise ValueError(f"mask threshold must be a grey level in 0..254, got {threshold}.")
    return mask_levels(path) > threshold


def mask_levels(path: str | Path) -> NDArray[Any]:
    """Return the stored values of a mask file as one number per pixel, shape (height, width).

    Palette files give the index, 1-bit files 0 and 1, colour files their largest channel; values beyond 8 bits come
    as floats in 0..255 so that no nonzero value becomes zero.

    Raises:
        ImageError: As for :func:`load_rgb`.
    """
    _, scan = open_scan(path, ReadOptions(max_pixels=NO_LIMIT))
    if scan is not None:
        return as_mask(scan.values)
    image = open_image(path)
    try:
        scale = full_scale(image)
        image = upright(image)
        if image.mode == "P":
            return np.asarray(image)
        if image.mode == "PA":
            return np.asarray(image)[..., 0]
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode.startswith("I") or image.mode == "F":
            values = np.abs(np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0))
            white = scale if scale is not None else Extent(float(values.min()), float(values.max())).natural()[1]
            return values * (255.0 / (white or 1.0))
        if image.mode in {"LA", "La", "RGBA", "RGBa"}:
            return np.asarray(image)[..., :-1].max(axis=-1)  # pixels count by their colour, however transparent
        levels = np.asarray(image if image.mode in {"L", "RGB"} else image.convert("RGB"))
        return levels if levels.ndim == 2 else levels.max(axis=-1)
    except Exception as error:
        raise ImageError(f"Cannot decode mask '{path}': {reason(error)}") from error
