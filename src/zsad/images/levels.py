"""Grey levels beyond eight bits become eight, band by band, without a copy of the whole in floats."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Window = tuple[float, float]
"""The grey levels that become black and white."""

_SMALL_PART = 8  # of its container's range: a picture that uses less is likely of fewer bits than its file says


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How files are read.

    Args:
        window: Grey levels that become black and white in pictures of more than 8 bits and of floats; levels beyond
            are clipped. None: what the file states, or the whole range of its kind.
        bits: Another way to say a window: 0 to 2 to the power of ``bits``, minus 1. A camera of 12 bits has 12.
        max_pixels: A picture of more pixels is refused before it is decoded.
        fast_decode: Decode JPEG files at half, a quarter or an eighth of their size where twice the pixels that are
            needed remain; scores differ a little from those of the whole picture.

    Raises:
        ValueError: A value is out of range, or both ``window`` and ``bits`` are given.
    """

    window: Window | None = None
    bits: int | None = None
    max_pixels: int = 100_000_000
    fast_decode: bool = False

    def __post_init__(self) -> None:
        if self.window is not None and self.bits is not None:
            raise ValueError(f"Give window={self.window} or bits={self.bits}, not both.")
        if self.window is not None:
            low, high = self.window
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise ValueError(f"window must be (LOW, HIGH) with LOW < HIGH, got {self.window!r}.")
        if self.bits is not None and not 1 <= self.bits <= 64:
            raise ValueError(f"bits must be in 1..64, got {self.bits}.")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}.")

    @property
    def limits(self) -> Window | None:
        """The grey levels that become black and white, however they were given."""
        return self.window if self.bits is None else (0.0, 2.0**self.bits - 1)


DEFAULT = ReadOptions()


@dataclass(frozen=True, slots=True)
class Extent:
    """What grey levels there are.

    Args:
        low: The smallest finite one.
        high: The greatest finite one.
    """

    low: float
    high: float

    @classmethod
    def of(cls, bands: Iterable[NDArray[Any]]) -> "Extent":
        """Return the extent of a picture's finite values.

        Raises:
            ValueError: There is none, or the values are complex.
        """
        low, high = np.inf, -np.inf
        for band in bands:
            if band.dtype.kind == "c":
                raise ValueError("its values are complex numbers, which are no grey levels")
            finite = band[np.isfinite(band)] if band.dtype.kind == "f" else band
            if finite.size:
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if low > high:
            raise ValueError("it holds no finite value")
        return cls(low, high)

    def natural(self) -> Window:
        """Return what means black and white where the file states no scale: 1, 255 or 65535, else the extent."""
        if self.low < 0 or self.high > 65535:
            return self.low, self.high
        return 0.0, next(level for level in (1.0, 255.0, 65535.0) if self.high <= level)

    def fitting(self, full: Window) -> Window | None:
        """Return the window that would fit, if the picture uses less than an eighth of its range; else None."""
        if self.high == self.low or _SMALL_PART * (self.high - self.low) >= full[1] - full[0]:
            return None
        if full[1] <= 1:
            return self.low, self.high
        white = 2.0 ** np.ceil(np.log2(self.high + 1)) - 1
        return (0.0, float(white)) if _SMALL_PART * (self.high - self.low) >= white else (self.low, self.high)


def to_8_bit(values: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Return a band's values as levels in 0..255, rounded and clipped; what is not finite counts as 0."""
    low, high = window
    finite = values.astype(np.float64)
    if values.dtype.kind == "f":
        np.nan_to_num(finite, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    levels = np.rint((finite - low) * (255.0 / ((high - low) or 1.0)))
    return levels.clip(0, 255).astype(np.uint8)


def read_count(text: str) -> int:
    """Return a plain number or one with k, M or G at its end: ``50M`` is 50 million.

    Raises:
        argparse.ArgumentTypeError: It is none, or less than 1.
    """
    factor = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    try:
        count = int(float(text[:-1] if factor > 1 else text) * factor)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be a number such as 50000000 or 50M, got '{text}'.")
    return count
