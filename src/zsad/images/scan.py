"""A slice of a scan: numbers that are no pixels yet, and what its file says of black and white."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.images.levels import Extent, ReadOptions, Window, to_8_bit


@dataclass(frozen=True, slots=True)
class Scan:
    """One slice, frame or image.

    Args:
        values: Grey levels (height, width) with the rescaling of the file applied, or colour (height, width, 3).
        stated: The window that the file states, None if it states none.
        natural: What its kind of numbers means by black and white; None if nobody can know.
        kind: What the numbers are called in a message.
        extent: Smallest and greatest value, of the whole volume where it is one.
        inverted: Whether low values are white.
        instance: SHA-256 of the SOP instance UID, in hexadecimal; None where there is none.
    """

    values: NDArray[Any]
    stated: Window | None
    natural: Window | None
    kind: str
    extent: Extent
    inverted: bool = False
    instance: str | None = None

    def window(self, options: ReadOptions) -> Window:
        """Return the grey levels that become black and white.

        Raises:
            ValueError: Nobody knows them.
        """
        window = options.limits or self.stated or self.natural
        if window is None:
            raise ValueError(
                f"its grey levels are {self.kind}, here {self.extent.low:g} to {self.extent.high:g}, so nobody knows "
                f"which mean black and white: give a window (--window LOW,HIGH)"
            )
        return window

    def image(self, window: Window) -> Image.Image:
        """Return the slice in eight bits, as RGB."""
        levels = to_8_bit(self.values, window)
        return Image.fromarray(255 - levels if self.inverted else levels).convert("RGB")

    def fitting(self, options: ReadOptions) -> Window | None:
        """Return the window that would fit, if nobody has stated one and the values use little of their range."""
        if options.limits is not None or self.stated is not None or self.natural is None:
            return None
        return self.extent.fitting(self.natural)


def index(number: int | None, count: int, what: str, how: str) -> int:
    """Return which of several is meant.

    Args:
        number: As the fragment says; None if it says nothing.
        count: How many there are.
        what: Their name in a message.
        how: An example of a fragment.

    Raises:
        ValueError: There is no such one, or several and none is named.
    """
    if number is None and count > 1:
        raise ValueError(f"it holds {count} {what}: name one, as in '{how}', or take all with --slices all or every:5")
    if (number or 0) >= count:
        raise ValueError(f"it holds {count} {what}, counted from 0, so there is no {number}")
    return number or 0


def bounded(height: int, width: int, options: ReadOptions) -> None:
    """Raise if a picture of that size must not be decoded.

    Raises:
        ValueError: It has no pixels, or more than allowed.
    """
    if height < 1 or width < 1:
        raise ValueError(f"its size is {width} x {height} pixels")
    if height * width > options.max_pixels:
        raise ValueError(
            f"it has {width} x {height} pixels, more than max_pixels={options.max_pixels} (--max-pixels) allows"
        )


def finite_extent(values: NDArray[Any]) -> Extent:
    """Return the extent of some values, 0 to 0 where none is finite."""
    try:
        return Extent.of([values])
    except ValueError:
        return Extent(0.0, 0.0)


def as_mask(values: NDArray[Any]) -> NDArray[Any]:
    """Return labels as numbers of which only 0 is 0: bytes as they are, others as floats up to 255."""
    if values.ndim == 3:
        values = values.max(axis=-1)
    if values.dtype == np.uint8:
        return values
    labels = np.abs(np.nan_to_num(values.astype(np.float64), nan=0.0))
    return labels * (255.0 / (float(labels.max()) or 1.0))
