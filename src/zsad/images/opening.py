"""A file as Pillow, or we where Pillow would lose something, opens it."""

import os
from pathlib import Path
from typing import Any, overload

from PIL import Image, features

from zsad.images.fragments import Part, split
from zsad.images.levels import ReadOptions
from zsad.images.medical import is_scan, read_scan
from zsad.images.picture import ImageError, Picture, reason, small_part
from zsad.images.scan import Scan
from zsad.images.tiff import NoSuchPageError, TooLargeError, read_tiff, tiff_orientation
from zsad.images.upright import TIFF_BITS, TURNS, in_bands

NO_LIMIT = 2**62
_TIFF_SAMPLE_FORMAT = 339  # tag number of TIFF 6.0
WHOLE = "zsad_whole_size"  # key of Pillow's info: (width, height) before a smaller picture was decoded


@overload
def open_image(
    path: str | Path, decode: bool = True, *, options: ReadOptions, least: int | None = None
) -> "Image.Image | Picture": ...
@overload
def open_image(path: str | Path, decode: bool = True) -> Image.Image: ...
def open_image(
    path: str | Path, decode: bool = True, *, options: ReadOptions | None = None, least: int | None = None
) -> "Image.Image | Picture":
    """Open a file; with options, a TIFF that Pillow refuses or bends comes as a picture already."""
    file, fragment = split(path)
    is_tiff = os.path.splitext(file)[1].lower() in {".tif", ".tiff"}
    try:
        page = Part.read(fragment).picture()
        if os.path.getsize(file) == 0:
            raise ImageError(f"Cannot read image '{path}': the file is empty.")
        image: Image.Image
        _register_reader(file)
        try:
            image = Image.open(file)
            _turn_to(image, page)
            if options is not None and image.width * image.height > options.max_pixels:
                raise TooLargeError(f"{image.width} x {image.height} pixels")
            if options is not None and is_tiff and _is_bent(image, options):
                return _tiff_picture(file, options, page)
            if least is not None and image.format in {"JPEG", "MPO"}:
                whole = image.size
                image.draft(None, (least, least))
                if image.size != whole:
                    image.info[WHOLE] = whole
            tiles = getattr(image, "tile", [])
            deep_colour = image.mode == "RGB" and bool(tiles) and ";16" in str(tiles[0][3])
            if decode:
                image.load()
            if deep_colour:
                image.info["zsad_deep_colour"] = True
        except (Image.DecompressionBombError, TooLargeError, NoSuchPageError):
            raise
        except Exception:
            if not is_tiff:
                raise
            if options is not None:
                return _tiff_picture(file, options, page)
            no_limit = ReadOptions(max_pixels=NO_LIMIT)
            image = read_tiff(file, no_limit, any_kind=True, number=page)[0]  # a mask needs no window
    except ImageError:
        raise
    except Exception as error:
        why = reason(error)
        if isinstance(error, TooLargeError):
            limit = NO_LIMIT if options is None else options.max_pixels
            why = f"it has {error}, more than max_pixels={limit} (--max-pixels) allows."
        raise ImageError(f"Cannot read image '{path}': {why}") from error
    if 0 in image.size:
        raise ImageError(f"Cannot read image '{path}': its size is {image.size[0]} x {image.size[1]} pixels.")
    return image


def _register_reader(path: str | Path) -> None:
    """Make Pillow read HEIC, and AVIF if it does not by itself.

    Raises:
        ImageError: The package that reads it is not installed.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in {".heic", ".heif", ".avif"} or ending in Image.registered_extensions():
        return
    if ending == ".avif" and features.check("avif"):
        return
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(f"Cannot read image '{path}': {ending} files need pip install 'zsad[heif]'.") from error
    pillow_heif.register_heif_opener()


def _turn_to(image: Image.Image, page: int) -> None:
    """Make Pillow read another picture of a file than the first.

    Raises:
        NoSuchPageError: There are not so many.
    """
    if not page:
        return
    count = getattr(image, "n_frames", 1)
    if page >= count:
        raise NoSuchPageError(f"it holds {count} picture(s), counted from 0, so there is no {page}")
    image.seek(page)


def _is_bent(image: Image.Image, options: ReadOptions) -> bool:
    """Whether Pillow would lose grey levels: signed ones, 32 bits, or 16 bits per colour that a window is for."""
    tags: Any = getattr(image, "tag_v2", {})
    bits, kind = tags.get(TIFF_BITS, (1,))[0], tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0]
    # floats are whole, but Pillow holds them twice as large as bands of them
    return kind in (2, 3) or (kind == 1 and bits >= 32) or (options.limits is not None and bits == 16)


def _tiff_picture(path: str | Path, options: ReadOptions, page: int) -> Picture:
    image, window, extent = read_tiff(path, options, number=page)
    fitting = None if options.limits is not None else extent.fitting(window)
    image = in_bands(image, window) if image.mode != "RGB" else image
    image = image.transpose(TURNS[turn]) if (turn := tiff_orientation(path, page)) != 1 else image
    return Picture(image, None if fitting is None else small_part(extent, window, fitting), fitting)


def open_scan(path: str | Path, options: ReadOptions) -> tuple[Part, Scan | None]:
    """Return the part of a file that a path names, and the scan if it is one.

    Raises:
        ImageError: As for :func:`load_rgb`.
    """
    file, fragment = split(path)
    try:
        part = Part.read(fragment)
        if not is_scan(file):
            return part, None
        if os.path.getsize(file) == 0:
            raise ValueError("the file is empty")
        return part, read_scan(file, part, options)
    except (ValueError, OSError) as error:
        raise ImageError(f"Cannot read image '{path}': {reason(error)}") from error
