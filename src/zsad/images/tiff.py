"""TIFF files that Pillow refuses or bends, read band by band with tifffile: 64 bits, signed, several float channels."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.images.levels import Extent, ReadOptions, Window, to_8_bit

_BAND = 2**22  # values at a time
_MOST = 600_000_000  # bytes of a strip that is decoded at once: 100 megapixels of 16-bit colour

_Band = tuple[int, int, int, NDArray[Any]]
"""Plane, top, left, and values (rows, columns, channels); there are planes where channels are stored apart."""


class TooLargeError(ValueError):
    """A picture has more pixels than allowed."""


def needs_window(dtype: np.dtype[Any]) -> bool:
    """Return whether nobody can know which values mean black and white: signed, or integers of 32 bits and more."""
    return dtype.kind == "i" or (dtype.kind == "u" and dtype.itemsize >= 4)


class NoSuchPageError(ValueError):
    """A file has fewer pictures than a path says."""


def read_tiff(
    path: str | Path, options: ReadOptions, any_kind: bool = False, number: int = 0
) -> tuple[Image.Image, Window, Extent]:
    """Return a page in 8 bits, the grey levels that became black and white, and those that are there.

    Args:
        path: The file.
        options: Window and greatest number of pixels.
        any_kind: Whether kinds of numbers that need a window are taken from their smallest to their greatest value.
        number: Of the page, from 0.

    Raises:
        NoSuchPageError: There is no such page.
        TooLargeError: It has more pixels than allowed.
        ValueError: Its values are no grey levels, or a window is needed and not given.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = _page(file, number)
        height, width = page.imagelength, page.imagewidth
        if height * width > options.max_pixels:
            raise TooLargeError(f"{width} x {height} pixels")
        dtype = np.dtype(page.dtype)
        if options.limits is None and needs_window(dtype) and not any_kind:
            raise ValueError(
                f"its grey levels are {dtype.name}, so nobody knows which mean black and white: "
                f"give a window (--window LOW,HIGH)"
            )
        channels = page.samplesperpixel
        bands: Callable[[], Iterator[_Band]] = lambda: _bands(page, dtype, channels)  # noqa: E731
        extent = Extent.of(band for *_, band in bands())
        stated = 2.0**page.bitspersample - 1 if page.sampleformat == 1 and not needs_window(dtype) else None
        window = options.limits or ((0.0, stated) if stated is not None else extent.natural())
        out = np.zeros((height, width, 3) if channels >= 3 else (height, width), np.uint8)
        apart = page.planarconfig == 2 and channels > 1
        for plane, top, left, band in bands():
            if plane >= (3 if channels >= 3 else 1):  # alpha, and what else there may be
                continue
            part = out[top : top + band.shape[0], left : left + band.shape[1]]
            band = band[: part.shape[0], : part.shape[1]]
            levels = band.astype(np.uint8, copy=False) if dtype == np.uint8 else to_8_bit(band, window)
            if apart and channels >= 3:
                part[..., plane] = levels[..., 0]
            else:
                part[...] = levels[..., :3] if channels >= 3 else levels[..., 0]
        return Image.fromarray(out), window, extent


def _page(file: Any, number: int) -> Any:
    if number >= len(file.pages):
        raise NoSuchPageError(f"it holds {len(file.pages)} page(s), counted from 0, so there is no {number}")
    return file.pages[number]


def tiff_orientation(path: str | Path, number: int = 0) -> int:
    """Return how a page is stored, 1 to 8 as in EXIF; 1 is upright, and what other values are taken for."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = _page(file, number)
        tag = page.tags.get(274)
        return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _bands(page: Any, dtype: np.dtype[Any], channels: int) -> Iterator[_Band]:
    """Yield parts of a page, few rows at a time; of what is compressed, one strip or tile is decoded at a time."""
    if page.is_contiguous and page.planarconfig == 1:  # stored plainly; whether it is aligned does not matter here
        row = page.imagewidth * channels
        rows = max(1, _BAND // row)
        stored = dtype.newbyteorder(page.parent.byteorder)
        for top in range(0, page.imagelength, rows):
            number = min(rows, page.imagelength - top)
            page.parent.filehandle.seek(page.dataoffsets[0] + top * row * dtype.itemsize)
            data = page.parent.filehandle.read(number * row * dtype.itemsize)
            values = np.frombuffer(data, stored).reshape(number, page.imagewidth, channels)
            yield 0, top, 0, values.astype(dtype, copy=False)
        return
    whole = int(np.prod(page.chunks)) * dtype.itemsize
    if whole > _MOST:
        raise ValueError(
            f"it is stored in strips or tiles of {whole / 1e6:.0f} MB, which are decoded whole, and "
            f"{_MOST / 1e6:.0f} MB are allowed: write it again with smaller ones"
        )
    for values, (plane, _, first, left, _), _ in page.segments(maxworkers=1 if whole > _MOST / 16 else None):
        if values is not None:
            rows = max(1, _BAND // values[0, 0].size)
            for top in range(0, len(values[0]), rows):
                yield plane, first + top, left, values[0, top : top + rows]
