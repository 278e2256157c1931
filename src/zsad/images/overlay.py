"""Heat maps as pictures: a perceptual colour table and its blend over the image, without a plotting library."""

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Limits = tuple[float, float]
"""The values that get the first and the last colour."""

Scale = Limits | Literal["image"] | None
"""Limits; ``"image"`` for each map's own smallest and greatest value; None for the method's declared range."""

MapFormat = Literal["npy", "tiff16"]
MAP_FORMATS: tuple[MapFormat, ...] = ("npy", "tiff16")
"""How raw maps are written."""
AUTO = "auto"
"""The scale that the first images of a run decide."""


@cache
def colour_table() -> NDArray[np.uint8]:
    """Return 256 colours from dark violet over red to pale yellow, (256, 3), lighter at every step.

    A path through OKLab (Björn Ottosson, "A perceptual color space for image processing", 2020): lightness grows
    evenly, hue turns from violet through red to yellow, chroma is greatest in between.
    """
    t = np.linspace(0.0, 1.0, 256)
    lightness = 0.16 + 0.80 * t
    hue = np.deg2rad(295.0 + 175.0 * t)  # 295 violet, 360 pink-red, 470 = 110 yellow
    chroma = 0.08 + 0.13 * np.sin(np.pi * np.clip(t, 0.0, 1.0)) ** 0.8
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    to_lms = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_lms.T) ** 3 @ to_rgb.T, 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


def limits_of(anomaly_map: NDArray[np.floating], scale: Scale, map_range: Limits | None) -> Limits:
    """Return the values that get the first and the last colour.

    Args:
        anomaly_map: (height, width).
        scale: What the caller asks for.
        map_range: What the method declares; without it and without a scale, the map's own range is taken.

    Raises:
        ValueError: The scale is not understood, or its limits are not in ascending order.
    """
    if scale is None and map_range is not None:
        return map_range
    if scale is None or scale == "image":
        return float(anomaly_map.min()), float(anomaly_map.max())
    if isinstance(scale, str) or len(scale) != 2 or not scale[0] < scale[1]:
        raise ValueError(f"scale must be (low, high) with low < high, or 'image', got {scale!r}.")
    return float(scale[0]), float(scale[1])


def relative(anomaly_map: NDArray[np.floating], limits: Limits) -> NDArray[np.float32]:
    """Return the map as shares of the limits in [0, 1]; values beyond them are clipped, a constant map gives 0."""
    low, high = limits
    shares = (np.asarray(anomaly_map, dtype=np.float64) - low) / ((high - low) or 1.0)
    return np.clip(np.nan_to_num(shares, nan=0.0), 0.0, 1.0).astype(np.float32)


def heat_map(anomaly_map: NDArray[np.floating], limits: Limits) -> Image.Image:
    """Return the map in colours, without the image.

    Args:
        anomaly_map: (height, width).
        limits: Values that get the first and the last colour.
    """
    return Image.fromarray(colour_table()[np.rint(255 * relative(anomaly_map, limits)).astype(np.uint8)])


def overlay(
    image: Image.Image, anomaly_map: NDArray[np.floating], limits: Limits, opacity: float = 0.65
) -> Image.Image:
    """Return the image with the map's colours over it, at the image's size; the larger the value the more they cover.

    Args:
        image: RGB picture.
        anomaly_map: (height, width), enlarged bilinearly to the picture if it has another size.
        limits: Values that get the first and the last colour.
        opacity: Share of the colour where the map is at its upper limit, in [0, 1]; one tenth of it at the lower one.

    Raises:
        ValueError: The opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in [0, 1], got {opacity}.")
    shares = relative(anomaly_map, limits)
    if shares.shape != (image.height, image.width):
        shares = np.asarray(Image.fromarray(shares).resize(image.size, Image.Resampling.BILINEAR))
    colours = colour_table()[np.rint(255 * shares).astype(np.uint8)].astype(np.float32)
    weight = opacity * (0.1 + 0.9 * shares[..., None])
    return Image.fromarray(np.rint((1 - weight) * np.asarray(image.convert("RGB")) + weight * colours).astype(np.uint8))


def outline(image: Image.Image, mask: NDArray[np.bool_], colour: tuple[int, int, int] = (0, 220, 90)) -> Image.Image:
    """Return the image with a line around the marked pixels, for showing where a defect is known to be.

    Args:
        image: RGB picture.
        mask: (height, width) of the picture's size.
        colour: Of the line.
    """
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    pixels = np.array(image.convert("RGB"))
    pixels[grown & ~mask] = colour
    return Image.fromarray(pixels)
