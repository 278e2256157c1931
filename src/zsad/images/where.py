"""Where to look in a picture: a region of interest that is cut out, and a mask of what does not count."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.images.masks import load_mask
from zsad.images.picture import ImageError, Size
from zsad.images.tiling import Box

_GREY = 128  # what was left out is faded towards
_SAME_SHAPE = 0.01  # proportions of mask and picture may differ by so much


@dataclass(frozen=True, slots=True)
class Roi:
    """A rectangle, in pixels or in per cent of a picture's sides.

    Args:
        numbers: Left, top, width and height.
        per_cent: Which of them are per cent.
    """

    numbers: tuple[float, float, float, float]
    per_cent: tuple[bool, bool, bool, bool] = (False, False, False, False)

    @classmethod
    def read(cls, text: str) -> "Roi":
        """Return what a text such as ``"100,50,640,480"`` or ``"10%,10%,80%,80%"`` means: X,Y,W,H.

        Raises:
            ValueError: It is no rectangle.
        """
        parts = [part.strip() for part in text.split(",")]
        per_cent = [part.endswith("%") for part in parts]
        try:
            numbers = [float(part.rstrip("% ")) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) != 4 or not all(map(np.isfinite, numbers)):
            raise ValueError(f"A region of interest is X,Y,W,H in pixels or per cent (10%,10%,80%,80%), got '{text}'.")
        if min(numbers[:2]) < 0 or min(numbers[2:]) <= 0:
            raise ValueError(f"A region of interest starts at 0 or more and is larger than 0, got '{text}'.")
        for place in (0, 1):
            both = per_cent[place] and per_cent[place + 2]
            if both and numbers[place] + numbers[place + 2] > 100:
                raise ValueError(f"The region of interest '{text}' ends beyond 100 %.")
        return cls((numbers[0], numbers[1], numbers[2], numbers[3]), _four(per_cent))

    def __str__(self) -> str:
        pairs = zip(self.numbers, self.per_cent, strict=True)
        return ",".join(f"{number:g}{'%' if per_cent else ''}" for number, per_cent in pairs)

    def box(self, size: Size) -> Box:
        """Return the rectangle in a picture of (height, width) pixels.

        Raises:
            ImageError: It leaves the picture.
        """
        height, width = size
        sides = (width, height, width, height)
        left, top, wide, high = (
            number * side / 100 if per_cent else number
            for number, per_cent, side in zip(self.numbers, self.per_cent, sides, strict=True)
        )
        box = round(left), round(top), round(left + wide), round(top + high)
        if box[2] > width or box[3] > height or box[0] >= box[2] or box[1] >= box[3]:
            raise ImageError(f"The region of interest {self} leaves the picture of {width} x {height} pixels.")
        return box


@dataclass(frozen=True, slots=True)
class Where:
    """Where to look.

    Args:
        roi: What is cut out before scoring; None for the whole picture.
        ignore_mask: Picture whose pixels above 0 do not count, of the picture's size or proportions; None without.
    """

    roi: Roi | None = None
    ignore_mask: str | None = None

    @classmethod
    def of(cls, roi: "Roi | str | None" = None, ignore_mask: str | Path | None = None) -> "Where":
        """Return what texts and paths mean.

        Raises:
            ValueError: The region is no rectangle.
            ImageError: The mask cannot be read.
        """
        if ignore_mask is not None:
            _ignored(str(ignore_mask))
        return cls(Roi.read(roi) if isinstance(roi, str) else roi, None if ignore_mask is None else str(ignore_mask))

    def instead(self, roi: str | None, ignore_mask: str | None) -> "Where":
        """Return where to look in a file of which a list says something; what it does not say stays as it is."""
        if roi is None and ignore_mask is None:
            return self
        return Where(self.roi if roi is None else Roi.read(roi), ignore_mask or self.ignore_mask)

    def __bool__(self) -> bool:
        return self.roi is not None or self.ignore_mask is not None

    def identity(self) -> dict[str, str | None] | None:
        """Return what decides a score: the region's text and a hash of what the mask marks; None for everything."""
        if not self:
            return None
        digest = None
        if self.ignore_mask is not None:
            mask = _ignored(self.ignore_mask)
            shape = f"{mask.shape[1]}x{mask.shape[0]} ".encode()
            digest = hashlib.blake2b(shape + np.packbits(mask).tobytes(), digest_size=8).hexdigest()
        return {"roi": None if self.roi is None else str(self.roi), "ignore_mask": digest}

    def box(self, size: Size) -> Box:
        """Return what is scored of a picture of (height, width) pixels.

        Raises:
            ImageError: The region leaves the picture.
        """
        return (0, 0, size[1], size[0]) if self.roi is None else self.roi.box(size)

    def check(self, source: Size) -> None:
        """Refuse a mask that does not belong to a picture of (height, width).

        Raises:
            ImageError: Its proportions are others, or it cannot be read.
        """
        if self.ignore_mask is None:
            return
        height, width = _ignored(self.ignore_mask).shape
        if abs(source[1] * height / (source[0] * width) - 1) > _SAME_SHAPE:
            raise ImageError(
                f"The mask '{self.ignore_mask}' is {width} x {height} pixels, the picture {source[1]} x {source[0]}: "
                f"the proportions differ, so one of the two is the wrong file or is turned."
            )

    def left_out(self, source: Size, size: Size) -> NDArray[np.bool_]:
        """Return which pixels do not count, (height, width) of ``size``.

        Args:
            source: (height, width) of the upright picture.
            size: Of the result.

        Raises:
            ImageError: The region leaves the picture, or the mask cannot be read.
        """
        left, top, right, bottom = scaled(self.box(source), source, size)
        out = np.ones(size, np.bool_)
        out[top:bottom, left:right] = False
        if self.ignore_mask is not None:
            mask = _ignored(self.ignore_mask)
            if mask.shape != size:
                mask = np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))
            out |= mask
        return out


EVERYWHERE = Where()
"""No region and no mask."""


def told(identity: Mapping[str, str | None] | None) -> str:
    """Return in words where was looked, from :meth:`Where.identity`."""
    if identity is None:
        return "the whole picture"
    roi, mask = identity.get("roi"), identity.get("ignore_mask")
    parts = ["the whole picture" if roi is None else f"the region {roi}", f"without the mask {mask}" if mask else ""]
    return " ".join(filter(None, parts))


def scaled(box: Box, source: Size, size: Size) -> Box:
    """Return a box of a picture of (height, width) pixels in one of another size, of at least one pixel."""
    down, across = size[0] / source[0], size[1] / source[1]
    left, top = min(round(box[0] * across), size[1] - 1), min(round(box[1] * down), size[0] - 1)
    return left, top, max(left + 1, round(box[2] * across)), max(top + 1, round(box[3] * down))


def greyed(picture: Image.Image, left_out: NDArray[np.bool_]) -> Image.Image:
    """Return a picture in which what was left out is faint and grey.

    Args:
        picture: RGB.
        left_out: (height, width), brought to the picture's size.
    """
    mask = Image.fromarray(left_out)
    if mask.size != picture.size:
        mask = mask.resize(picture.size, Image.Resampling.NEAREST)
    grey = picture.convert("L").point([(level + 2 * _GREY) // 3 for level in range(256)]).convert("RGB")
    return Image.composite(grey, picture, mask)


def _ignored(path: str) -> NDArray[np.bool_]:
    try:
        stat = os.stat(path)
    except OSError:
        return load_mask(path)  # says what is wrong
    return _marked(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _marked(path: str, changed: int, size: int) -> NDArray[np.bool_]:
    """The mask in a file that was last changed then and has so many bytes."""
    mask = load_mask(path)
    mask.setflags(write=False)
    return mask


def _four(values: Sequence[bool]) -> tuple[bool, bool, bool, bool]:
    return values[0], values[1], values[2], values[3]
