"""Any image file becomes an upright RGB picture or a mask here, and nowhere else."""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

Size = tuple[int, int]


_TIFF_BITS, _TIFF_MAX_VALUE, _TIFF_SAMPLE_FORMAT = 258, 281, 339  # tag numbers of TIFF 6.0


class ImageError(ValueError):
    """A file cannot be read as an image; the message names the file and the reason."""


def load_rgb(path: str | Path) -> Image.Image:
    """Return the picture in a file as 8-bit RGB, upright.

    Camera rotation (EXIF) is applied, palettes are looked up, an alpha channel is dropped (not blended), one-channel
    pictures are repeated. More than 8 bits are scaled, never clipped: 16-bit levels by 65535 or by the depth that the
    file states; floats in [0, 1] by 1, up to 255 by 255, up to 65535 by 65535, and any other range from its own
    smallest to its greatest value. Of several frames or pages the first is taken.

    Raises:
        ImageError: The file is missing, empty, truncated, of no size, too large to be meant seriously
            (:data:`PIL.Image.MAX_IMAGE_PIXELS`), or not an image.
    """
    return to_rgb(_open(path), path)


def to_rgb(image: Image.Image, path: str | Path = "<image>") -> Image.Image:
    """Return a picture of any mode as upright 8-bit RGB; the rules are those of :func:`load_rgb`.

    Args:
        image: The picture; it is not changed.
        path: What to call it in an error message.

    Raises:
        ImageError: The pixels cannot be decoded or the mode cannot be converted.
    """
    try:
        scale = _full_scale(image)  # before turning, which loses the tags
        image = _upright(image)
        if image.mode.startswith("I") or image.mode == "F":
            return Image.fromarray(_to_8_bit(np.asarray(image), scale)).convert("RGB")
        if image.mode == "RGB":
            return image
        if "transparency" in image.info:  # else Pillow warns about a key that we ignore anyway
            image = image.copy()
            del image.info["transparency"]
        if image.mode in {"La", "RGBa"}:  # colour is stored multiplied by alpha
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        if image.mode == "LAB":  # Pillow converts it through colour profiles only
            profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            return cast(Image.Image, ImageCms.profileToProfile(image, *profiles, outputMode="RGB"))
        return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise almost any type on damaged data
        raise ImageError(f"Cannot decode image '{path}': {_reason(error)}") from error


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
    image = _open(path)
    try:
        scale = _full_scale(image)
        image = _upright(image)
        if image.mode == "P":
            return np.asarray(image)
        if image.mode == "PA":
            return np.asarray(image)[..., 0]
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode.startswith("I") or image.mode == "F":
            values = np.abs(np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0))
            return values * (255.0 / (scale if scale is not None else _range(values)[1] or 1.0))
        if image.mode in {"LA", "La", "RGBA", "RGBa"}:
            return np.asarray(image)[..., :-1].max(axis=-1)  # pixels count by their colour, however transparent
        levels = np.asarray(image if image.mode in {"L", "RGB"} else image.convert("RGB"))
        return levels if levels.ndim == 2 else levels.max(axis=-1)
    except Exception as error:
        raise ImageError(f"Cannot decode mask '{path}': {_reason(error)}") from error


def image_size(path: str | Path) -> Size:
    """Return (height, width) of a picture as it is after turning it upright, from the header alone where possible.

    Raises:
        ImageError: As for :func:`load_rgb`.
    """
    image = _open(path, decode=False)
    with image:
        tags: Any = getattr(image, "tag_v2", {})
        width, height = tags.get(256, image.size[0]), tags.get(257, image.size[1])  # Pillow turns TIFF by itself
        turned = _orientation(image) in {5, 6, 7, 8}
    return (width, height) if turned else (height, width)


def _open(path: str | Path, decode: bool = True) -> Image.Image:
    try:
        if os.path.getsize(path) == 0:
            raise ImageError(f"Cannot read image '{path}': the file is empty.")
        image: Image.Image
        try:
            image = Image.open(path)
            if decode:
                image.load()
        except Image.DecompressionBombError:
            raise
        except Exception:
            if os.path.splitext(path)[1].lower() not in {".tif", ".tiff"}:
                raise
            image = _open_tiff(path)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"Cannot read image '{path}': {_reason(error)}") from error
    if 0 in image.size:
        raise ImageError(f"Cannot read image '{path}': its size is {image.size[0]} x {image.size[1]} pixels.")
    return image


def _open_tiff(path: str | Path) -> Image.Image:
    """Read a TIFF that Pillow refuses, such as several float channels, with scikit-image's reader."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        if page.imagelength * page.imagewidth > 2 * (Image.MAX_IMAGE_PIXELS or np.inf):
            raise Image.DecompressionBombError(f"{page.imagelength} x {page.imagewidth} pixels")
        values = page.asarray()
        if values.ndim == 3 and page.planarconfig == 2:  # one plane per channel
            values = np.moveaxis(values, 0, -1)
        bits = page.bitspersample if page.sampleformat == 1 else None
    if values.ndim == 3 and values.shape[-1] in {1, 2}:
        values = values[..., 0]
    if values.dtype != np.uint8:
        values = _to_8_bit(values, 2.0**bits - 1 if bits else None)
    return Image.fromarray(values[..., :3] if values.ndim == 3 else values)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 is upright, and what a damaged EXIF block is taken for."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow's EXIF parser raises almost any type
        return 1


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _full_scale(image: Image.Image) -> float | None:
    """Return the value that means white in a picture of integers beyond 8 bits; None for all others."""
    if not image.mode.startswith("I"):
        return None
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, (16 if image.mode.startswith("I;16") else 32,))[0]
    stated = tags.get(_TIFF_MAX_VALUE)
    highest = float(np.asarray(image).max())
    if stated is not None and highest <= (level := float(stated[0] if isinstance(stated, tuple) else stated)):
        return level
    if bits <= 16 or image.format in {"PNG", "PPM", "JPEG2000"}:  # these are read as 32-bit numbers up to 65535
        return 65535.0 if highest > 2**bits - 1 or bits > 16 else 2.0**bits - 1
    return next((level for level in (255.0, 65535.0) if highest <= level), 2.0**31 - 1)


def _range(values: NDArray[Any]) -> tuple[float, float]:
    """Return what means black and white in pictures whose file states no scale."""
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        return low, high
    return 0.0, next(level for level in (1.0, 255.0, 65535.0) if high <= level)


def _to_8_bit(values: NDArray[Any], scale: float | None) -> NDArray[np.uint8]:
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (0.0, scale) if scale is not None else _range(values)
    levels = np.rint((values - low) * (255.0 / ((high - low) or 1.0)))
    return levels.clip(0, 255).astype(np.uint8)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format."
    if isinstance(error, FileNotFoundError):
        return "no such file."
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return f"{text.rstrip('.')}."
