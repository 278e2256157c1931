"""A picture of any mode becomes upright RGB, in the memory of the result and of one band."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms, ImageOps

from zsad.images.levels import Extent, ReadOptions, Window, to_8_bit
from zsad.images.picture import ImageError, Picture, reason, small_part

_BAND = 2**22  # pixels at a time
_SAYS_TURN = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where Pillow looks for an orientation
SIDEWAYS = frozenset({5, 6, 7, 8})  # orientations in which width and height change places
TIFF_BITS, _TIFF_MAX_VALUE = 258, 281  # tag numbers of TIFF 6.0
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_picture(image: Image.Image, path: str | Path, options: ReadOptions, owned: bool = False) -> Picture:
    """Return a picture of any mode as upright 8-bit RGB.

    Args:
        image: The picture; it is not changed.
        path: What to call it in an error message.
        options: How grey levels are read.
        owned: Whether the picture may be closed, to save its memory.

    Raises:
        ImageError: The pixels cannot be decoded or the mode cannot be converted.
    """
    try:
        image.load()  # a picture that is as it should be would fail later, and as something else
        turn = orientation(image)
        warning, fitting, window = None, None, (0.0, 255.0)
        if image.mode.startswith("I") or image.mode == "F":
            window, full, extent = _window(image, options)
            fitting = extent.fitting(full) if options.limits is None and extent is not None else None
            warning = None if fitting is None or extent is None else small_part(extent, full, fitting)
        elif options.limits is not None and image.info.get("zsad_deep_colour"):
            warning = "The window was not applied: colour of 16 bits is read in 8."
        if image.mode == "RGB" and turn == 1:
            return Picture(image, warning)
        rgb = in_bands(image, window) if image.mode != "RGB" else image
        if owned and rgb is not image:
            image.close()  # 400 MB of a hundred megapixels, before the next copy
        if turn != 1:
            rgb = rgb.transpose(TURNS[turn])
            for note in _SAYS_TURN:  # else who reads the picture again would turn it again
                rgb.info.pop(note, None)
        return Picture(rgb, warning, fitting)
    except Exception as error:  # Pillow's decoders raise almost any type on damaged data
        raise ImageError(f"Cannot decode image '{path}': {reason(error)}") from error


def in_bands(image: Image.Image, window: Window) -> Image.Image:
    """Return a picture of any mode as RGB; it takes the memory of the result and of one band."""
    rgb = Image.new("RGB", image.size)
    for top, band in _bands(image):
        rgb.paste(_band_to_rgb(band, window), (0, top))
    return rgb


def _band_to_rgb(band: Image.Image, window: Window) -> Image.Image:
    if band.mode.startswith("I") or band.mode == "F":
        return Image.fromarray(to_8_bit(np.asarray(band), window)).convert("RGB")
    band.info.pop("transparency", None)  # else Pillow warns about a key that we ignore anyway
    if band.mode in {"La", "RGBa"}:  # colour is stored multiplied by alpha
        band = band.convert("LA" if band.mode == "La" else "RGBA")
    if band.mode == "LAB":  # Pillow converts it through colour profiles only
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return cast(Image.Image, ImageCms.profileToProfile(band, *profiles, outputMode="RGB"))
    return band.convert("RGB")


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (top, rows of a picture), few pixels at a time."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 is upright, and what a damaged EXIF block is taken for."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow's EXIF parser raises almost any type
        return 1


def upright(image: Image.Image) -> Image.Image:
    """Return a picture in its own mode, turned as its EXIF block says."""
    return image if orientation(image) == 1 else ImageOps.exif_transpose(image)


def _window(image: Image.Image, options: ReadOptions) -> tuple[Window, Window, Extent | None]:
    """Return the levels that become black and white, those of the container, and those that are there if they matter.

    Raises:
        ValueError: No value is finite, or nobody can know what is black and white.
    """
    if image.mode == "F":
        extent = Extent.of(np.asarray(band) for _, band in _bands(image))
        return options.limits or extent.natural(), extent.natural(), extent
    if image.mode == "I" and options.limits is None and image.format not in {"PNG", "PPM", "JPEG2000"}:
        bits = getattr(image, "tag_v2", {}).get(TIFF_BITS, (32,))[0]
        if bits > 16:
            raise ValueError("its grey levels have 32 bits: give a window (--window LOW,HIGH)")
    scale = cast(float, full_scale(image))
    extent = Extent.of(np.asarray(band) for _, band in _bands(image))
    return options.limits or (0.0, scale), (0.0, scale), extent


def full_scale(image: Image.Image) -> float | None:
    """Return the value that means white in a picture of integers beyond 8 bits; None for all others."""
    if not image.mode.startswith("I"):
        return None
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(TIFF_BITS, (16 if image.mode.startswith("I;16") else 32,))[0]
    stated = tags.get(_TIFF_MAX_VALUE)
    highest = max(float(np.asarray(band).max()) for _, band in _bands(image))
    if stated is not None and highest <= (level := float(stated[0] if isinstance(stated, tuple) else stated)):
        return level
    if bits <= 16 or image.format in {"PNG", "PPM", "JPEG2000"}:  # these are read as 32-bit numbers up to 65535
        return 65535.0 if highest > 2**bits - 1 or bits > 16 else 2.0**bits - 1
    return next((level for level in (255.0, 65535.0) if highest <= level), 2.0**31 - 1)
