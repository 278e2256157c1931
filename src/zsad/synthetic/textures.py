"""The textures: one function per class, each filling a picture with one material.

Every function takes a generator and a side in pixels and returns float32 RGB in about [0, 1], shape (size, size, 3).
"""

from collections.abc import Callable

import numpy as np

from zsad.synthetic.names import named
from zsad.synthetic.noise import (
    FloatArray,
    any_colour,
    cells,
    field,
    fractal,
    mix,
    shades,
    turn,
    uv,
    wave,
)

Texture = Callable[[np.random.Generator, int], FloatArray]


def wood(rng: np.random.Generator, size: int) -> FloatArray:
    """Grain lines, warped slowly, with fine streaks along them."""
    angle = turn(rng)
    u, v = uv(size, angle)
    across = v / rng.uniform(6, 16) + rng.uniform(0.1, 0.6) * field(rng, size, 30) + rng.uniform(-0.01, 0.01) * u
    grain = rng.uniform(0.3, 0.7) * wave(across) + 0.35 + 0.12 * field(rng, size, 1.0, 17.0, angle)
    return mix(grain, *shades(rng, 0.08, (0.3, 0.7)))


def fabric(rng: np.random.Generator, size: int) -> FloatArray:
    """Plain weave: over and under threads, chosen by a checkerboard of thread cells."""
    u, v = uv(size, turn(rng))
    period = rng.uniform(4, 9)
    over = (np.floor(u / period) + np.floor(v / period)) % 2
    ribs = rng.integers(1, 4)
    bend = np.where(over, wave(ribs * u / period), wave(ribs * v / period))
    weave = 0.25 + 0.5 * bend + rng.uniform(0.05, 0.25) * over + 0.07 * field(rng, size, 1.5)
    return mix(weave, *shades(rng, 0.6, (0.1, 0.7)))


def denim(rng: np.random.Generator, size: int) -> FloatArray:
    """Twill: stripes shifted by a quarter period from row to row."""
    u, v = uv(size, turn(rng))
    period = rng.uniform(4, 8)
    row = np.floor(v / (period / 2))
    stripes = wave(u / period + row / 4)
    return mix(0.6 * stripes + 0.2 + 0.12 * field(rng, size, 1.3, 6.0), *shades(rng, 0.61, (0.35, 0.8), (0.2, 0.7)))


def granite(rng: np.random.Generator, size: int) -> FloatArray:
    """Three kinds of grain with sharp borders."""
    grain = fractal(rng, size, rng.uniform(4, 9), 3)
    dark, light = shades(rng, rng.random(), (0.02, 0.25))
    low, high = rng.uniform(-1, -0.3), rng.uniform(0.3, 1)
    image = mix((grain > low) * 0.6 + 0.4 * (grain > high), dark, light)
    return image + 0.03 * field(rng, size, 1.2)[..., None]


def carpet(rng: np.random.Generator, size: int) -> FloatArray:
    """Fine pile with a faint row pattern."""
    u, _ = uv(size, turn(rng))
    pile = 0.5 + 0.2 * field(rng, size, 1.3) + rng.uniform(0.05, 0.2) * (wave(u / rng.uniform(4, 10)) - 0.5)
    return mix(pile, *shades(rng, 0.02, (0.1, 0.6), (0.2, 0.75)))


def metal(rng: np.random.Generator, size: int) -> FloatArray:
    """Brushed metal: long streaks of little colour."""
    angle = turn(rng)
    brushed = 0.5 + 0.18 * field(rng, size, 1.0, rng.uniform(25, 80), angle) + 0.1 * field(rng, size, 50)
    return mix(brushed, *shades(rng, 0.6, (0.0, 0.15), (0.4, 0.9), (0.15, 0.35)))


def concrete(rng: np.random.Generator, size: int) -> FloatArray:
    """Cloudy grey with rare dark pores."""
    cloud = 0.55 + 0.15 * fractal(rng, size, rng.uniform(20, 40), 5)
    pores = field(rng, size, rng.uniform(2, 4)) > 2.2
    return mix(cloud - 0.4 * pores, *shades(rng, 0.1, (0.0, 0.15)))


def paper(rng: np.random.Generator, size: int) -> FloatArray:
    """Low-contrast fibres of two sizes."""
    fibre = (
        0.5 + 0.12 * field(rng, size, 1.2, rng.uniform(1.2, 4), turn(rng)) + 0.1 * field(rng, size, rng.uniform(8, 20))
    )
    return mix(fibre, *shades(rng, 0.12, (0.0, 0.25), (0.6, 0.97), (0.08, 0.2)))


def brick(rng: np.random.Generator, size: int) -> FloatArray:
    """Rows of bricks with a half-brick offset, a tint for each brick and mortar between them."""
    u, v = uv(size, rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.05))
    height = rng.uniform(10, 20)
    width = height * rng.uniform(1.8, 2.8)
    v = v + rng.uniform(0, height)
    row = np.floor(v / height)
    u = u + (row % 2) * width / 2 + rng.uniform(0, width)
    column = np.floor(u / width)
    joint = rng.uniform(0.8, 1.8)
    gap = np.minimum(np.minimum(u % width, width - u % width), np.minimum(v % height, height - v % height)) < joint
    tints = rng.normal(0, 0.15, (32, 32))
    tint = tints[row.astype(int) % 32, column.astype(int) % 32]
    dark, light = shades(rng, 0.03, (0.3, 0.7))
    image = mix(0.55 + tint + 0.1 * field(rng, size, 2), dark, light)
    mortar = np.float32(rng.uniform(0.35, 0.85)) + 0.04 * field(rng, size, 1.5)[..., None]
    return np.where(gap[..., None], mortar, image).astype(np.float32)


def sponge(rng: np.random.Generator, size: int) -> FloatArray:
    """Open pores, dark in the middle."""
    spacing = rng.uniform(5, 11)
    near, _, _, _ = cells(rng, size, spacing)
    pore = np.clip(near / spacing * rng.uniform(1.6, 2.6), 0, 1)
    return mix(pore + 0.06 * field(rng, size, 1.3), *shades(rng, 0.14, (0.3, 0.7), (0.5, 0.95)))


def cardboard(rng: np.random.Generator, size: int) -> FloatArray:
    """Corrugation seen through the liner."""
    u, _ = uv(size, turn(rng))
    board = (
        0.3
        + rng.uniform(0.2, 0.5) * wave(u / rng.uniform(5, 14))
        + 0.1 * field(rng, size, 1.4)
        + 0.08 * field(rng, size, 12)
    )
    return mix(board, *shades(rng, 0.09, (0.2, 0.5), (0.4, 0.85), (0.1, 0.25)))


def plastic(rng: np.random.Generator, size: int) -> FloatArray:
    """A lattice of small dots on a shaded plane."""
    u, v = uv(size, turn(rng))
    period = rng.uniform(5, 12)
    dots = wave(u / period) * wave(v / (period * rng.uniform(0.8, 1.25)))
    plane = 0.35 + 0.15 * field(rng, size, 70) + 0.5 * np.clip(3 * (dots - rng.uniform(0.4, 0.7)), 0, 1)
    return mix(plane, *shades(rng, rng.random(), (0.1, 0.8)))


def rubber(rng: np.random.Generator, size: int) -> FloatArray:
    """Zigzag tread."""
    u, v = uv(size, turn(rng))
    period = rng.uniform(8, 18)
    zigzag = np.abs((u / period) % 1 - 0.5) * rng.uniform(0.8, 2.0)
    tread = np.clip(rng.uniform(2, 5) * (wave(v / rng.uniform(7, 14) + zigzag) - 0.5) + 0.5, 0, 1)
    return mix(0.8 * tread + 0.1 + 0.05 * field(rng, size, 1.3), *shades(rng, 0.6, (0.0, 0.3), (0.1, 0.55)))


def pattern(rng: np.random.Generator, size: int) -> FloatArray:
    """No material in particular: two to four random waves, noises, dots or checks put together at random.

    Only for pretraining and the ``seen`` split: a model needs many constructions, not only a few named ones.
    """
    total = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(2, 5)):
        kind = rng.integers(6)
        u, v = uv(size, turn(rng))
        if kind == 0:
            part = wave(u / rng.uniform(4, 30) + rng.uniform(0, 0.6) * field(rng, size, rng.uniform(10, 40)))
        elif kind == 1:
            part = 0.5 + 0.3 * field(rng, size, rng.uniform(1, 10), rng.uniform(1, 60), turn(rng))
        elif kind == 2:
            spacing = rng.uniform(5, 20)
            part = np.clip(cells(rng, size, spacing)[0] / spacing * rng.uniform(1, 2), 0, 1)
        elif kind == 3:
            part = ((np.floor(u / rng.uniform(5, 20)) + np.floor(v / rng.uniform(5, 20))) % 2).astype(np.float32)
        elif kind == 4:
            part = np.clip(4 * (wave(u / rng.uniform(5, 20)) * wave(v / rng.uniform(5, 20)) - 0.5), 0, 1)
        else:
            part = 0.5 + 0.3 * fractal(rng, size, rng.uniform(5, 40), int(rng.integers(2, 5)))
        total += rng.uniform(-1, 1) * part
    total = (total - total.min()) / (np.ptp(total) + 1e-6)
    if rng.random() < 0.4:
        total = np.clip(0.5 + rng.uniform(1.5, 8) * (total - rng.uniform(0.35, 0.65)), 0, 1)
    if rng.random() < 0.25:
        image = mix(total * 2, any_colour(rng), any_colour(rng))
        image = image + mix(total * 2 - 1, (0, 0, 0), any_colour(rng)) * rng.uniform(0.3, 1)
    else:
        dark, light = shades(rng, rng.random(), (0.0, 0.9), (0.2, 0.95), (0.1, 0.6))
        image = mix(total, dark, light)
    return (image + rng.uniform(0, 0.06) * field(rng, size, rng.uniform(1, 2))[..., None]).astype(np.float32)


def leather(rng: np.random.Generator, size: int) -> FloatArray:
    """Creases where a smooth field changes sign."""
    crease = np.abs(field(rng, size, rng.uniform(2.5, 6)))
    return mix(
        0.2 + 0.6 * np.clip(crease * 1.3, 0, 1) + 0.05 * field(rng, size, 25),
        *shades(rng, 0.06, (0.3, 0.7), (0.2, 0.7)),
    )


def grid(rng: np.random.Generator, size: int) -> FloatArray:
    """Two crossed families of bars on a dark ground."""
    angle = turn(rng)
    u, v = uv(size, angle)
    period, bar = rng.uniform(8, 16), rng.uniform(0.55, 0.75)
    bars = np.maximum(wave(u / period), wave(v / period))
    bars = np.clip(6 * (bars - bar), 0, 1)
    return mix(0.9 * bars + 0.06 * field(rng, size, 2), (0.06, 0.06, 0.07), shades(rng, 0.6, (0.0, 0.3), (0.4, 0.9))[1])


def mosaic(rng: np.random.Generator, size: int) -> FloatArray:
    """Three families of lines at 60 degrees: small triangles."""
    angle, period = turn(rng), rng.uniform(10, 20)
    lines = np.zeros((size, size), np.float32)
    for k in range(3):
        u, _ = uv(size, angle + k * np.pi / 3)
        lines = np.maximum(lines, wave(u / period))
    return mix(
        np.clip(1 - 8 * (lines - 0.88), 0, 1) + 0.06 * field(rng, size, 3), *shades(rng, 0.5, (0.1, 0.6), (0.4, 0.9))
    )


def marble(rng: np.random.Generator, size: int) -> FloatArray:
    """Veins where fractal noise changes sign."""
    veins = np.exp(-rng.uniform(3, 7) * np.abs(fractal(rng, size, rng.uniform(25, 45))))
    return mix(0.9 - 0.7 * veins + 0.04 * field(rng, size, 20), *shades(rng, 0.6, (0.0, 0.25), (0.6, 0.97)))


def cork(rng: np.random.Generator, size: int) -> FloatArray:
    """Pressed granules: a tint for each cell, dark borders."""
    spacing = rng.uniform(5, 10)
    near, second, number, count = cells(rng, size, spacing)
    tint = rng.normal(0.6, 0.18, count)[number]
    border = np.clip((second - near) / 1.5, 0, 1)
    return mix(tint * (0.4 + 0.6 * border) + 0.05 * field(rng, size, 1.3), *shades(rng, 0.08, (0.3, 0.6)))


SEEN_TEXTURES: dict[str, Texture] = named(
    wood, fabric, denim, granite, carpet, metal, concrete, paper, brick, sponge, cardboard, plastic, rubber, pattern
)
"""Textures that the mini CLIP was trained on."""

HELD_OUT_TEXTURES: dict[str, Texture] = named(leather, grid, mosaic, marble, cork)
"""Textures that the mini CLIP never saw, neither as pictures nor as words."""

TEXTURES: dict[str, Texture] = {**SEEN_TEXTURES, **HELD_OUT_TEXTURES}
"""All textures by class name."""
