"""Further classes for pretraining only: constructions put together at random, no two pictures alike.

They have no name of their own and are in no test set, so that the benchmark's pictures stay what they were. None is
built as a held-out class is: no creases, bars, lines at 60 degrees, veins or granules; no thread, teeth, two-coloured
capsule, chips on a disc or balls between rings.
"""

from itertools import pairwise

import numpy as np
from PIL import Image

from zsad.synthetic.names import named
from zsad.synthetic.noise import FloatArray, any_colour, field, fractal, hsv, mix, shades, turn, uv, wave
from zsad.synthetic.objects import SEEN_OBJECTS, Drawing, assembly
from zsad.synthetic.pen import Pen, Point, around, shade
from zsad.synthetic.textures import SEEN_TEXTURES, Texture, pattern


def weave(rng: np.random.Generator, size: int) -> FloatArray:
    """A random binding: which thread lies on top is a small random table that repeats."""
    u, v = uv(size, turn(rng))
    period, repeat = rng.uniform(3, 9), int(rng.integers(2, 8))
    column, row = (np.floor(axis / period).astype(int) for axis in np.broadcast_arrays(u, v))
    over = rng.random((repeat, repeat))[row % repeat, column % repeat] > rng.uniform(0.3, 0.7)
    warp, weft = (np.array([any_colour(rng) for _ in range(repeat)], np.float32) for _ in range(2))
    if rng.random() < 0.6:  # all threads of a direction alike
        warp, weft = warp[:1].repeat(repeat, 0), weft[:1].repeat(repeat, 0)
    relief = np.where(over, wave(u / period + 0.25), wave(v / period + 0.25))
    colour = np.where(over[..., None], warp[column % repeat], weft[row % repeat])
    return colour * (0.7 + 0.3 * relief + 0.05 * field(rng, size, 1.5))[..., None]


def tiling(rng: np.random.Generator, size: int) -> FloatArray:
    """Rectangular tiles with a tint, a gradient and a joint of any width; rows may be moved."""
    u, v = uv(size, turn(rng))
    width, height, move = rng.uniform(8, 40), rng.uniform(6, 30), rng.choice([0.0, 0.25, 0.33])
    row = np.floor(v / height)
    u = u + move * width * row
    column = np.floor(u / width)
    x, y = u / width - column, v / height - row
    tint = rng.normal(0, rng.uniform(0, 0.3), (16, 16))[row.astype(int) % 16, column.astype(int) % 16]
    face = 0.5 + tint + rng.uniform(-0.3, 0.3) * (x + y - 1) + rng.uniform(0, 0.15) * fractal(rng, size, 12, 3)
    joint = np.minimum(np.minimum(x, 1 - x) * width, np.minimum(y, 1 - y) * height) < rng.uniform(0.3, 1.5)
    dark, light = shades(rng, rng.random(), (0.0, 0.8), (0.2, 0.95))
    # joints are dark: bright bars on a dark ground would be the held-out grid
    return np.where(
        joint[..., None], np.asarray(shade(dark, rng.uniform(0.2, 0.8)), np.float32), mix(face, dark, light)
    )


def heap(rng: np.random.Generator, size: int) -> FloatArray:
    """Many small parts of a kind, strewn one over the other: chips, straws, discs."""
    pen = Pen(2 * size)
    dark, light = shades(rng, rng.random(), (0.0, 0.8), (0.2, 0.95), (0.1, 0.5))
    kind, length, width = rng.integers(3), rng.uniform(0.08, 0.5), rng.uniform(0.02, 0.09)
    pen.box((0, 0), 1, 1, shade(dark, rng.uniform(0.4, 1)))
    for _ in range(int(rng.uniform(1, 2) * 3 / max(length * width * 4, 0.02))):
        (x, y), angle = rng.uniform(-1.1, 1.1, 2), turn(rng)
        colour = shade(dark if rng.random() < 0.5 else light, rng.uniform(0.75, 1.25))
        dx, dy = length / 2 * np.cos(angle), length / 2 * np.sin(angle)
        if kind == 0:
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], width, colour)
        elif kind == 1:
            pen.ellipse((x, y), length / 3, colour, rng.uniform(0.5, 1))
        else:
            corners = around(int(rng.integers(3, 7)), length / 2.5, angle)
            pen.polygon([(x + a, y + b) for a, b in corners], colour)
    image = np.asarray(pen.layer.reduce(2).convert("RGB"), np.float32) / 255
    return image + rng.uniform(0.01, 0.05) * field(rng, size, 1.5)[..., None]


def printed(rng: np.random.Generator, size: int) -> FloatArray:
    """A small random drawing that repeats on a plain or patterned ground."""
    pen = Pen(max(24, int(size * rng.uniform(0.3, 0.8))))
    assembly(rng, pen)
    motif = pen.layer.reduce(2)
    ground = mix(0.5 + 0.1 * field(rng, size, rng.uniform(1, 30)), *shades(rng, rng.random(), (0.0, 0.7)))
    canvas = Image.fromarray(np.uint8(255 * np.clip(ground, 0, 1))).convert("RGBA")
    step, shift = int(motif.width * rng.uniform(0.8, 1.5)), rng.integers(0, motif.width, 2)
    move = int(step * rng.choice([0.0, 0.5]))
    for row, y in enumerate(range(-step, size + step, step)):
        for x in range(-step, size + step, step):
            canvas.alpha_composite(motif, *_inside(canvas, motif, x + shift[0] - move * (row % 2), y + shift[1]))
    image = np.asarray(canvas.convert("RGB"), np.float32) / 255
    return image + rng.uniform(0.01, 0.05) * field(rng, size, 1.5)[..., None]


def _inside(canvas: Image.Image, part: Image.Image, x: int, y: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where a part goes on a canvas and where it is cut, as alpha_composite takes no negative place."""
    x, y = min(int(x), canvas.width), min(int(y), canvas.height)
    cut = (min(max(-x, 0), part.width), min(max(-y, 0), part.height))
    return (max(x, 0), max(y, 0)), cut


def relief(rng: np.random.Generator, size: int) -> FloatArray:
    """A random pattern as heights, lit from the side."""
    height = pattern(rng, size).mean(-1)
    dy, dx = np.gradient(height)
    angle = turn(rng)
    light = np.cos(angle) * dx + np.sin(angle) * dy
    light = 0.5 + rng.uniform(0.08, 0.2) * light / (light.std() + 1e-6)
    return mix(light, *shades(rng, rng.random(), (0.0, 0.7), (0.3, 0.95), (0.2, 0.6)))


def composed(rng: np.random.Generator, size: int) -> FloatArray:
    """Two seen textures in one picture: side by side, in stripes, in patches or one shining through the other."""
    names = [name for name in SEEN_TEXTURES if name != "sponge"]
    first, second = (SEEN_TEXTURES[names[rng.integers(len(names))]](rng, size) for _ in range(2))
    u, _ = uv(size, turn(rng))
    kind = rng.integers(4)
    if kind == 0:
        weight = np.clip((u - rng.uniform(-25, 25)) / rng.uniform(0.5, 6), 0, 1)
    elif kind == 1:
        weight = np.clip(6 * (wave(u / rng.uniform(12, 50)) - 0.5) + 0.5, 0, 1)
    elif kind == 2:
        weight = np.clip(4 * field(rng, size, rng.uniform(8, 30)), 0, 1)
    else:
        weight = np.full((size, size), rng.uniform(0.3, 0.7))
    weight = np.broadcast_to(weight, (size, size))[..., None].astype(np.float32)
    return first * weight + second * (1 - weight)


def profile(rng: np.random.Generator, pen: Pen) -> None:
    """A turned part seen from the side: a row of sections of random width, mirrored at its axis."""
    dark, light = shades(rng, rng.random(), (0.0, 0.7), (0.3, 0.95))
    edges = np.sort(rng.uniform(-0.85, 0.85, int(rng.integers(2, 6))))
    for left, right in pairwise([-0.85, *edges, 0.85]):
        first, last = rng.uniform(0.12, 0.6, 2) if rng.random() < 0.4 else np.full(2, rng.uniform(0.12, 0.6))
        corners = [(left, -first), (right, -last), (right, last), (left, first)]
        pen.polygon(corners, shade(light if rng.random() < 0.6 else dark, rng.uniform(0.7, 1.2)))
        pen.line([(left, -0.4 * first), (right, -0.4 * last)], 0.04, shade(light, 1.2))


def outline(rng: np.random.Generator, pen: Pen) -> None:
    """A smooth random outline with an inset, lines, and a lattice of marks."""
    dark, light = shades(rng, rng.random(), (0.0, 0.9), (0.2, 0.95))
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 0.62 + sum(rng.normal(0, 0.12 / k) * np.cos(k * angle + turn(rng)) for k in (1, 2, 3, 4))
    stretch = rng.uniform(0.6, 1.2)
    points = np.stack([radius * np.cos(angle) * stretch, radius * np.sin(angle)], 1).clip(-0.95, 0.95)
    for factor, colour in ((1.0, dark), (rng.uniform(0.8, 0.97), light), (rng.uniform(0.3, 0.8), any_colour(rng))):
        pen.polygon([(float(x), float(y)) for x, y in points * factor], colour)
        if colour is light and rng.random() < 0.5:
            break
    direction, mark = turn(rng), any_colour(rng)
    for k in range(int(rng.integers(0, 5))):
        dx, dy = 0.35 * np.cos(direction), 0.35 * np.sin(direction)
        x, y = -0.2 * dy * (k - 2) / 0.35, 0.2 * dx * (k - 2) / 0.35
        pen.line([(x - dx, y - dy), (x + dx, y + dy)], rng.uniform(0.02, 0.06), mark)
    if rng.random() < 0.5:
        pen.ellipse((rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)), rng.uniform(0.05, 0.2), None)


def faced(rng: np.random.Generator, pen: Pen) -> None:
    """A random outline cut from a seen or random texture."""
    (assembly if rng.random() < 0.5 else outline)(rng, pen)
    names = list(SEEN_TEXTURES)
    side = pen.layer.width
    texture = SEEN_TEXTURES[names[rng.integers(len(names))]](rng, side // 2)
    face = Image.fromarray(np.uint8(255 * np.clip(texture, 0, 1))).resize((side, side), Image.Resampling.BILINEAR)
    whole = Image.new("RGBA", (side, side))
    whole.paste(face, mask=pen.layer.getchannel("A"))
    pen.layer.paste(Image.blend(pen.layer, whole, rng.uniform(0.5, 1.0)))


def group(rng: np.random.Generator, pen: Pen) -> None:
    """Two to five pieces of one seen object side by side."""
    names, side = list(SEEN_OBJECTS), pen.layer.width
    name = names[rng.integers(len(names))]
    count = int(rng.integers(2, 6))
    spots: list[Point] = around(count, 0.48, turn(rng)) if count > 2 else [(-0.48, 0.0), (0.48, 0.0)]
    part = int(side * (0.45 if count < 4 else 0.36))
    for x, y in spots:
        small = Pen(part)
        SEEN_OBJECTS[name](rng, small)
        place = (int((x + 1) * side / 2 - part / 2), int((y + 1) * side / 2 - part / 2))
        pen.layer.alpha_composite(small.layer, (max(place[0], 0), max(place[1], 0)))


def panel(rng: np.random.Generator, pen: Pen) -> None:
    """A box with a lattice of keys, lamps, slots or windows, one row of them larger."""
    dark, light = shades(rng, rng.random(), (0.0, 0.6), (0.2, 0.95))
    width, height = rng.uniform(0.5, 0.88), rng.uniform(0.4, 0.88)
    pen.box((0, 0), width, height, dark, rng.uniform(0, 0.2))
    pen.box((0, 0), width * 0.93, height * 0.93, light, rng.uniform(0, 0.15))
    columns, rows, round_ones = int(rng.integers(1, 6)), int(rng.integers(1, 6)), rng.random() < 0.4
    colours = [any_colour(rng), shade(dark, 0.6), hsv(0, 0, rng.uniform(0, 1))]
    for row in range(rows):
        colour, fill = colours[rng.integers(3)], rng.uniform(0.5, 0.85)
        for column in range(columns):
            x = width * 0.85 * (2 * (column + 0.5) / columns - 1)
            y = height * 0.85 * (2 * (row + 0.5) / rows - 1)
            half = (width * 0.8 / columns * fill, height * 0.8 / rows * fill)
            if round_ones:
                pen.ellipse((x, y), min(half), colour)
            else:
                pen.box((x, y), *half, colour, rng.uniform(0, 0.05))


WIDER_TEXTURES: dict[str, Texture] = named(weave, tiling, heap, printed, relief, composed)
"""Textures for pretraining only."""

WIDER_OBJECTS: dict[str, Drawing] = named(profile, outline, faced, group, panel)
"""Objects for pretraining only."""
