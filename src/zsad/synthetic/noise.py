"""Building blocks of every picture: smooth random fields, rotated coordinates, cells and colours.

Lengths are in 1/96 of the side whatever the picture's size, so a texture keeps its look when it is drawn larger.
"""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

UNIT = 96
"""Lengths are given for a picture of this many pixels."""

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]
Colour = tuple[float, float, float]


def field(
    rng: np.random.Generator, size: int, cell: float, along: float | None = None, angle: float = 0.0
) -> FloatArray:
    """Return smooth noise of mean 0 and deviation 1, shape (size, size).

    Args:
        rng: Source of the noise.
        size: Side of the result in pixels.
        cell: Distance of the random values that are joined smoothly, in 1/96 of the side.
        along: Distance along the second axis; longer than ``cell`` gives streaks. None: as ``cell``.
        angle: Direction of the streaks in radians.
    """
    step_y = max(cell * size / UNIT, 1.0)
    step_x = max((cell if along is None else along) * size / UNIT, 1.0)
    rows, columns = (int(1.45 * size / step) + 6 for step in (step_y, step_x))
    coarse = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    cos, sin, half = np.cos(angle), np.sin(angle), size / 2
    shift = rng.random(2)
    matrix = (  # output pixel -> place on the coarse grid, both measured from their centres
        cos / step_x,
        sin / step_x,
        columns / 2 + shift[0] - (cos + sin) * half / step_x,
        -sin / step_y,
        cos / step_y,
        rows / 2 + shift[1] - (cos - sin) * half / step_y,
    )
    smooth = np.asarray(
        coarse.transform((size, size), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC)
    )
    return (smooth - smooth.mean()) / (smooth.std() + 1e-6)


def fractal(rng: np.random.Generator, size: int, cell: float, octaves: int = 4) -> FloatArray:
    """Return a sum of fields with halving cells and weights 0.6^i, deviation 1, shape (size, size)."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        total += 0.6**octave * field(rng, size, cell / 2**octave)
    return total / (total.std() + 1e-6)


def uv(size: int, angle: float) -> tuple[FloatArray, FloatArray]:
    """Return the two pixel coordinates turned by ``angle`` (radians), in 1/96 of the side, origin in the centre."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (UNIT / size) - UNIT / 2
    x, y = axis[None, :], axis[:, None]
    return (
        (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32),
        (np.cos(angle) * y - np.sin(angle) * x).astype(np.float32),
    )


def cells(rng: np.random.Generator, size: int, spacing: float) -> tuple[FloatArray, FloatArray, NDArray[np.intp], int]:
    """Return distance to the nearest and second nearest of random points, the nearest one's number, and their count.

    Distances are in 1/96 of the side; the points lie on a shaken lattice of the given spacing.
    """
    margin = UNIT / 2 + 2 * spacing
    lattice = np.arange(-margin, margin, spacing, dtype=np.float32)
    points = np.stack(np.meshgrid(lattice, lattice), -1).reshape(-1, 2)
    points = points + rng.uniform(-0.45, 0.45, points.shape).astype(np.float32) * spacing
    x, y = uv(size, 0.0)
    x, y = np.broadcast_arrays(x, y)
    distance, nearest = cKDTree(points).query(np.stack([x.ravel(), y.ravel()], 1), k=2)
    distance = distance.astype(np.float32).reshape(size, size, 2)
    return distance[..., 0], distance[..., 1], nearest[:, 0].reshape(size, size), len(points)


def mix(amount: NDArray[np.floating], low: Sequence[float], high: Sequence[float]) -> FloatArray:
    """Return the colour blend: ``low`` where ``amount`` is 0, ``high`` where it is 1; shape (size, size, 3)."""
    weight = np.clip(amount, 0, 1).astype(np.float32)[..., None]
    return weight * np.asarray(high, np.float32) + (1 - weight) * np.asarray(low, np.float32)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Return RGB in [0, 1]; hue wraps around at 1."""
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


def any_colour(rng: np.random.Generator) -> Colour:
    """Return a colour of any hue."""
    return hsv(rng.random(), rng.uniform(0.1, 0.9), rng.uniform(0.15, 0.95))


def shades(
    rng: np.random.Generator,
    hue: float,
    saturation: tuple[float, float] = (0.2, 0.6),
    value: tuple[float, float] = (0.3, 0.85),
    contrast: tuple[float, float] = (0.2, 0.4),
) -> tuple[Colour, Colour]:
    """Return a darker and a lighter colour of one material.

    In 30% of the pictures another hue replaces the material's typical one: else colour alone would give the class away.
    """
    if rng.random() < 0.3:
        hue = rng.random()
    hue += rng.normal(0, 0.02)
    light = rng.uniform(value[0] + 0.1, value[1])
    strength = rng.uniform(*saturation)
    return hsv(hue + rng.normal(0, 0.02), strength, light - rng.uniform(*contrast)), hsv(hue, strength * 0.9, light)


def wave(phase: FloatArray) -> FloatArray:
    """Return a sine of a phase given in periods, moved to [0, 1]."""
    return (0.5 + 0.5 * np.sin(2 * np.pi * phase)).astype(np.float32)


def turn(rng: np.random.Generator) -> float:
    """Return any direction, in radians."""
    return float(rng.uniform(0, 2 * np.pi))
