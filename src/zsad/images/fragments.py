"""Which part of a file is meant: ``scan.dcm#frame=3``, ``volume.nii.gz#axis=2,slice=40``, ``stack.tif#page=2``."""

import os
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


def split(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the file that a path names and its fragment, which is "" where there is none.

    A fragment counts only where no file has that very name: ``a#b.png`` may be a file.
    """
    text = os.fspath(path)
    if "#" not in os.path.basename(text) or os.path.lexists(text):
        return text, ""
    file, _, fragment = text.rpartition("#")
    return file, fragment


def exists(path: str | os.PathLike[str]) -> bool:
    """Return whether a path, or the file of a path with a fragment, is there."""
    return os.path.lexists(split(path)[0])


def resolved(path: str | os.PathLike[str]) -> str:
    """Return what makes two spellings one image: the resolved path, with the fragment if there is one."""
    file, fragment = split(path)
    return os.path.realpath(file) + (f"#{fragment}" if fragment else "")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file; all numbers count from 0.

    Args:
        page: Of a TIFF file, or of another file of several pictures.
        frame: Of a DICOM file or an animation.
        axis: Of a volume, along which its slices are counted; None is the last one.
        slice: Of a volume.
        xywh: Left, top, width and height of a rectangle of the upright picture, in pixels.
    """

    page: int | None = None
    frame: int | None = None
    axis: int | None = None
    slice: int | None = None
    xywh: tuple[int, int, int, int] | None = None

    @classmethod
    def read(cls, fragment: str) -> "Self":
        """Return what a fragment says.

        Raises:
            ValueError: It is none.
        """
        found: dict[str, int | tuple[int, ...]] = {}
        known = {field.name: 4 if field.name == "xywh" else 1 for field in fields(cls)}
        for term in re.split(r"[,&](?=[a-z])", fragment) if fragment else []:
            name, _, value = term.partition("=")
            numbers = value.split(",")
            if len(numbers) != known.get(name) or name in found or not all(one.isdecimal() for one in numbers):
                raise ValueError(
                    f"'#{fragment}' is no part of an image: write #page=2, #frame=3, #axis=2,slice=40 or #xywh=0,0,8,8"
                )
            found[name] = tuple(map(int, numbers)) if name == "xywh" else int(value)
        return cls(**found)  # type: ignore[arg-type]

    def picture(self) -> int:
        """Return which picture of a file of several is meant; 0 where nothing is said.

        Raises:
            ValueError: A slice of a volume is meant.
        """
        if self.slice is not None or self.axis is not None:
            raise ValueError("it is no volume: pictures of a file are #page= or #frame=")
        return self.page if self.page is not None else self.frame or 0
