"""Which files of a folder are images."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from zsad.images.reading import Size

IMAGE_EXTENSIONS = frozenset(
    {".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""What :func:`list_images` takes for an image, in lower case; the comparison ignores case."""


def is_image(name: str) -> bool:
    """Return whether a file's name says image: a known extension in any case, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def list_images(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the image files under the given files and folders, one path at a time.

    Folders are walked to every depth in sorted order, without opening a file, so memory holds one folder's names.
    Hidden files and folders and names without an image's extension are passed over; a file that is named outright is
    always yielded. A folder that links back to one above it is entered once.

    Raises:
        FileNotFoundError: A given path does not exist.
    """
    for path in map(Path, paths):
        if path.is_dir():
            yield from map(Path, _walk(str(path), ()))
        elif path.exists():
            yield path
        else:
            raise FileNotFoundError(f"No such file or folder: '{path}'.")


def _walk(folder: str, above: tuple[Size, ...]) -> Iterator[str]:
    stat = os.stat(folder)
    if (here := (stat.st_dev, stat.st_ino)) in above:
        return
    with os.scandir(folder) as entries:
        names = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    for name, is_folder in names:
        if is_folder:
            yield from _walk(os.path.join(folder, name), (*above, here))
        elif is_image(name):
            yield os.path.join(folder, name)
