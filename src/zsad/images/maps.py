"""Raw anomaly maps as files: of ours and of any other program."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zsad.images.picture import ImageError

_DESCRIPTION = 270  # tag of a TIFF file


def write_map(path: Path, values: NDArray[np.float32]) -> None:
    """Write a map as ``.npy``, or as a TIFF file with 65,536 levels whose limits stand in the file's description.

    Args:
        path: The file; its folder is made.
        values: (height, width).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
        return
    import tifffile

    low, high = float(values.min()), float(values.max())
    levels = np.rint((values.astype(np.float64) - low) * (65535 / (high - low) if high > low else 0)).astype(np.uint16)
    about: dict[str, Any] = {"zsad_map": 1, "low": low, "high": high}
    tifffile.imwrite(path, levels, description=json.dumps(about), photometric="minisblack", metadata=None)


def read_map(path: Path) -> NDArray[Any]:
    """Return a map file with one channel as (height, width): float64 stays, everything else becomes float32.

    Raises:
        ImageError: The file cannot be read or has several channels.
    """
    values = read_array(path) if path.suffix.lower() == ".npy" else _read_picture(path)
    values = _of_levels(path, values).squeeze()
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise ImageError(f"'{path}' must hold one number per pixel, got shape {values.shape} of type {values.dtype}.")
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32)


def read_array(path: Path) -> NDArray[Any]:
    """Return what a ``.npy`` file holds.

    Raises:
        ImageError: The file cannot be read.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"Cannot read '{path}': {error}") from error


def _of_levels(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """Undo the levels of :func:`write_map`."""
    if values.dtype != np.uint16 or path.suffix.lower() not in (".tif", ".tiff"):
        return values
    with Image.open(path) as picture:
        text = str(picture.tag_v2.get(_DESCRIPTION, "") if hasattr(picture, "tag_v2") else "")
    try:
        about = json.loads(text)
        low, high = float(about["low"]), float(about["high"])
        known = about["zsad_map"] == 1
    except (ValueError, TypeError, KeyError):
        return values
    return (low + values.astype(np.float64) * ((high - low) / 65535)).astype(np.float32) if known else values


def _read_picture(path: Path) -> NDArray[Any]:
    try:
        try:
            with Image.open(path) as picture:
                return np.asarray(picture)
        except UnidentifiedImageError:  # Pillow does not know float64 and some compressed floats
            if path.suffix.lower() == ".png":
                raise
            import tifffile

            return np.asarray(tifffile.imread(path))
    except Exception as error:  # decoders raise almost any type on damaged data
        raise ImageError(f"Cannot read '{path}': {error}") from error
