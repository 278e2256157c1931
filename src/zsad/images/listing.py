"""Which files of a folder are images, and which file is the same as which."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zsad.images.fragments import exists, resolved, split
from zsad.images.picture import ImageError

IMAGE_EXTENSIONS = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
        *(".ppm", ".tif", ".tiff", ".webp", ".dcm", ".dicom", ".nii", ".nii.gz"),
    }
)
"""What :func:`list_images` takes for an image, in lower case; the comparison ignores case."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is to be read, or a folder that could not be.

    Args:
        path: As it is shown: the given path, with what was found below it.
        real: The resolved path: two names of one file have the same.
        below: Path below the given folder with forward slashes, the file's name if the file itself was given. It does
            not change when the folder moves; per-image random numbers depend on it.
        root: The resolved folder that ``below`` starts from.
        error: Why a folder could not be walked, or a file not be taken; None if all is well.
        class_name: What it shows, where a list or a rule says so.
        roi: Where to look, as :class:`zsad.images.where.Roi` reads it, where a list says so.
        ignore_mask: Picture of what does not count, where a list says so.
        group: What other images it belongs together with, where a list says so.
    """

    path: str
    real: str
    below: str
    root: str
    error: str | None = None
    class_name: str | None = None
    roi: str | None = None
    ignore_mask: str | None = None
    group: str | None = None


def is_image(name: str) -> bool:
    """Return whether a file's name says image: a known extension in any case, and not hidden."""
    return not name.startswith(".") and extension(name).lower() in IMAGE_EXTENSIONS


def extension(name: str) -> str:
    """Return the ending of a file's name, ``.nii.gz`` as one."""
    return name[-7:] if name.lower().endswith(".nii.gz") else os.path.splitext(name)[1]


def list_images(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the image files under the given files and folders, one path at a time.

    Folders are walked to every depth in sorted order, without opening a file, so memory holds one folder's names.
    Hidden files and folders and names without an image's extension are passed over; a file that is named outright is
    always yielded. A folder is walked once, whichever links lead to it.

    Raises:
        FileNotFoundError: A given path does not exist.
        ImageError: A folder cannot be read.
    """
    for found in walk(paths):
        if found.error is not None:
            raise ImageError(found.error)
        yield Path(found.path)


def walk(
    paths: Iterable[str | Path], passed: Counter[str] | None = None, avoid: Iterable[str | Path] = ()
) -> Iterator[Found]:
    """Yield what :func:`list_images` does, with the identity of each file; a folder that fails is an item of its own.

    Args:
        paths: Files and folders.
        passed: Counts the files that are no images, by extension in lower case; hidden ones are not counted.
        avoid: Folders that are not entered.

    Raises:
        FileNotFoundError: A given path does not exist.
    """
    seen: set[tuple[int, int]] = set()
    for folder in filter(os.path.isdir, avoid):
        stat = os.stat(folder)
        seen.add((stat.st_dev, stat.st_ino))
    for given in paths:
        path = os.fspath(given)
        if os.path.isdir(path):
            root = os.path.realpath(path)
            yield from _walk(path, root, "", root, seen, Counter() if passed is None else passed)
        elif exists(path):
            real = resolved(path)
            yield Found(path, real, os.path.basename(path), os.path.dirname(os.path.realpath(split(path)[0])))
        else:
            raise FileNotFoundError(f"No such file or folder: '{path}'.")


def _walk(
    folder: str, real: str, below: str, root: str, seen: set[tuple[int, int]], passed: Counter[str]
) -> Iterator[Found]:
    try:
        stat = os.stat(folder)
        if (here := (stat.st_dev, stat.st_ino)) in seen:
            return
        seen.add(here)
        with os.scandir(folder) as entries:
            shown = sorted((entry.name, entry) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        reason = error.strerror or str(error)
        yield Found(folder, real, below or ".", root, f"Cannot list folder '{folder}': {reason}.")
        return
    for name, entry in shown:
        path, inner = os.path.join(folder, name), f"{below}/{name}" if below else name
        is_link = entry.is_symlink()
        if _is_folder(entry):
            target = os.path.realpath(path) if is_link else os.path.join(real, name)
            yield from _walk(path, target, inner, root, seen, passed)
        elif is_image(name):
            yield Found(path, os.path.realpath(path) if is_link else os.path.join(real, name), inner, root)
        else:
            passed[os.path.splitext(name)[1].lower()] += 1


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
