"""Files of hospitals and microscopes: DICOM, NIfTI, several pages of a TIFF, and a volume as its slices."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from zsad.images import dicom, nifti
from zsad.images.fragments import Part, split
from zsad.images.levels import ReadOptions
from zsad.images.scan import Scan

ENDINGS = (*dicom.ENDINGS, *nifti.ENDINGS)
"""Endings of files that this reads, in lower case."""


def is_scan(file: str | Path) -> bool:
    """Return whether a file is DICOM or NIfTI: by its name, or by its content where the name has no ending."""
    name = os.path.basename(file).lower()
    return name.endswith(ENDINGS) or ("." not in name.lstrip(".") and dicom.is_dicom(os.fspath(file)))


def read_scan(file: str, part: Part, options: ReadOptions) -> Scan:
    """Return a slice or frame of a DICOM or NIfTI file.

    Raises:
        ValueError: It cannot be read; the message says why, without a word of the header.
        OSError: It cannot be opened.
    """
    reader = nifti.read if file.lower().endswith(nifti.ENDINGS) else dicom.read
    return reader(file, part, options)


def expand_slices(path: str | Path, which: str = "all") -> Iterator[str]:
    """Yield the slices, frames or pages of a file, each as a path with a fragment; the path itself if it has only one.

    Args:
        path: A NIfTI volume (with ``#axis=0`` cut along another axis than the last), a DICOM file, a TIFF file of
            several pages; any other path comes back.
        which: ``"all"``, or ``"every:5"`` for the first and each fifth after it.

    Raises:
        ValueError: ``which`` is neither, or the file cannot be read.
        OSError: The file cannot be opened.

    Example:
        >>> from zsad.images import expand_slices
        >>> list(expand_slices("photo.jpg", "every:5"))
        ['photo.jpg']
    """
    step = slice_step(which)
    file, fragment = split(path)
    part = Part.read(fragment)
    one = os.fspath(path)
    if (part.page, part.frame, part.slice, part.xywh) != (None,) * 4:
        yield one
        return
    if file.lower().endswith(nifti.ENDINGS):
        axis, count = nifti.slices(file, part.axis)
        start = f"axis={axis},slice="
    elif is_scan(file):
        start, count = "frame=", dicom.frames(file)
    elif file.lower().endswith((".tif", ".tiff")):
        start, count = "page=", _pages(file)
    else:
        start, count = "", 1
    yield from (f"{file}#{start}{number}" for number in range(0, count, step)) if count > 1 else [one]


def slice_step(which: str) -> int:
    """Return what ``"all"`` and ``"every:5"`` mean: every first, every fifth.

    Raises:
        ValueError: It is neither.
    """
    match = re.fullmatch(r"every:([1-9]\d{0,8})", which)
    if which != "all" and match is None:
        raise ValueError(f"slices must be 'all' or 'every:N' with N of at least 1, got '{which}'.")
    return 1 if match is None else int(match[1])


def _pages(file: str) -> int:
    import tifffile

    try:
        with tifffile.TiffFile(file) as opened:
            return len(opened.pages)
    except tifffile.TiffFileError as error:
        raise ValueError(f"no TIFF file, or a damaged one: {error}") from error
