"""Any image file becomes an upright RGB picture here, and nowhere else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from zsad.images.fragments import split
from zsad.images.levels import DEFAULT, ReadOptions
from zsad.images.medical import is_scan
from zsad.images.opening import WHOLE, open_image, open_scan
from zsad.images.picture import ImageError, Picture, Size, reason, small_part
from zsad.images.scan import Scan
from zsad.images.upright import SIDEWAYS, orientation, to_picture


def load_rgb(path: str | Path, options: ReadOptions = DEFAULT) -> Image.Image:
    """Return the picture in a file as 8-bit RGB, upright.

    Camera rotation (EXIF) is applied, palettes are looked up, an alpha channel is dropped (not blended), one-channel
    pictures are repeated. More than 8 bits are scaled, never clipped: 16-bit levels by 65535 or by the depth that the
    file states; floats in [0, 1] by 1, up to 255 by 255, up to 65535 by 65535, and any other range from its own
    smallest to its greatest value; or by the window of ``options``. Of several frames or pages the first is taken,
    unless the path names one: ``"stack.tif#page=2"``, counted from 0; ``#xywh=0,0,64,64`` cuts a rectangle out. DICOM
    and NIfTI are read by :mod:`zsad.images.medical`; of a volume a path names a slice.

    Raises:
        ImageError: The file is missing, empty, truncated, of no size, too large to be meant seriously
            (``options.max_pixels``), or not an image; its values are all NaN or complex; or they are signed or have
            32 bits and more, and no window says which are black and white.
    """
    return load_picture(path, options).image


def load_picture(path: str | Path, options: ReadOptions = DEFAULT, least: int | None = None) -> Picture:
    """Return what :func:`load_rgb` does, with a warning where the grey levels use a small part of their range.

    Args:
        path: The file.
        options: How it is read.
        least: A JPEG file may be decoded at half, a quarter or an eighth of its size, as long as both sides keep so
            many pixels. None: never.

    Raises:
        ImageError: As for :func:`load_rgb`.
    """
    part, scan = open_scan(path, options)
    if scan is not None:
        picture = _from_scan(scan, path, options)
    else:
        image = open_image(path, options=options, least=None if part.xywh else least)
        if isinstance(image, Picture):
            picture = image
        else:
            source: Size | None = image.info.get(WHOLE)
            if source is not None and orientation(image) not in SIDEWAYS:
                source = source[1], source[0]
            picture = replace(to_picture(image, path, options, owned=True), source=source)
    return picture if part.xywh is None else _cut(picture, part.xywh, path)


def to_rgb(image: Image.Image, path: str | Path = "<image>", options: ReadOptions = DEFAULT) -> Image.Image:
    """Return a picture of any mode as upright 8-bit RGB; the rules are those of :func:`load_rgb`.

    Args:
        image: The picture; it is not changed.
        path: What to call it in an error message.
        options: How grey levels are read.

    Raises:
        ImageError: The pixels cannot be decoded or the mode cannot be converted.
    """
    return to_picture(image, path, options).image


def image_size(path: str | Path) -> Size:
    """Return (height, width) of a picture as it is after turning it upright, from the header alone where possible.

    Raises:
        ImageError: As for :func:`load_rgb`.
    """
    if is_scan(split(path)[0]):
        return load_picture(path, ReadOptions((0.0, 1.0))).image.size[::-1]
    image = open_image(path, decode=False)
    with image:
        tags: Any = getattr(image, "tag_v2", {})
        width, height = tags.get(256, image.size[0]), tags.get(257, image.size[1])  # Pillow turns TIFF by itself
        turned = orientation(image) in SIDEWAYS
    return (width, height) if turned else (height, width)


def _from_scan(scan: Scan, path: str | Path, options: ReadOptions) -> Picture:
    try:
        window = scan.window(options)
    except ValueError as error:
        raise ImageError(f"Cannot read image '{path}': {reason(error)}") from error
    fitting = scan.fitting(options)
    warning = None if fitting is None else small_part(scan.extent, window, fitting)
    return Picture(scan.image(window), warning, fitting, instance=scan.instance)


def _cut(picture: Picture, xywh: tuple[int, int, int, int], path: str | Path) -> Picture:
    left, top, width, height = xywh
    right, bottom = left + width, top + height
    if not width or not height or right > picture.image.width or bottom > picture.image.height:
        size = f"{picture.image.width} x {picture.image.height}"
        raise ImageError(f"Cannot read image '{path}': the rectangle is empty or leaves the picture of {size} pixels.")
    return replace(picture, image=picture.image.crop((left, top, right, bottom)))
