"""The objects: one function per class, each drawing a thing with a :class:`~zsad.synthetic.pen.Pen`.

The construction varies within a class (numbers of parts, proportions, colours), so that a class is not one picture.
"""

from collections.abc import Callable

import numpy as np

from zsad.synthetic.names import named
from zsad.synthetic.noise import Colour, any_colour, hsv, shades
from zsad.synthetic.pen import Pen, Point, around, shade

Drawing = Callable[[np.random.Generator, Pen], None]


def washer(rng: np.random.Generator, pen: Pen) -> None:
    """Disc with a round bore and a bevel."""
    dark, light = shades(rng, 0.6, (0.0, 0.2), (0.4, 0.9))
    pen.ellipse((0, 0), 0.78, dark)
    pen.ellipse((0, 0), 0.78 - rng.uniform(0.03, 0.1), light)
    bore = rng.uniform(0.25, 0.5)
    pen.ellipse((0, 0), bore + 0.05, dark)
    pen.ellipse((0, 0), bore, None)


def nut(rng: np.random.Generator, pen: Pen) -> None:
    """Hexagon with a bore."""
    dark, light = shades(rng, 0.12, (0.0, 0.35), (0.4, 0.9))
    start = rng.uniform(0, np.pi)
    pen.polygon(around(6, 0.82, start), dark)
    pen.polygon(around(6, 0.82 - rng.uniform(0.04, 0.12), start), light)
    if rng.random() < 0.5:
        pen.ring((0, 0), 0.66, 0.04, dark)
    bore = rng.uniform(0.28, 0.45)
    pen.ellipse((0, 0), bore + 0.06, shade(dark, 0.7))
    pen.ellipse((0, 0), bore, None)


def bottle(rng: np.random.Generator, pen: Pen) -> None:
    """A bottle's mouth seen from above: rings of glass around a dark middle."""
    dark, light = shades(rng, 0.1, (0.3, 0.8), (0.2, 0.75))
    radius = 0.82
    for k in range(rng.integers(4, 7)):
        pen.ellipse((0, 0), radius, shade(light if k % 2 else dark, rng.uniform(0.7, 1.2)))
        radius -= rng.uniform(0.06, 0.15)
    pen.ellipse((0, 0), min(max(radius, 0.0), 0.35), hsv(rng.random(), 0.2, rng.uniform(0.02, 0.2)))


def pill(rng: np.random.Generator, pen: Pen) -> None:
    """Disc with a score line."""
    dark, light = shades(rng, rng.random(), (0.0, 0.4), (0.6, 0.97), (0.1, 0.25))
    ratio = rng.uniform(0.6, 1.0)
    pen.ellipse((0, 0), 0.75, dark, ratio)
    pen.ellipse((0, 0), 0.69, light, ratio)
    pen.line([(-0.55, 0), (0.55, 0)], rng.uniform(0.03, 0.07), shade(dark, 0.8))
    if rng.random() < 0.3:
        pen.line([(0, -0.5 * ratio), (0, 0.5 * ratio)], 0.04, shade(dark, 0.8))


def cable(rng: np.random.Generator, pen: Pen) -> None:
    """Cross-section: a sheath, three coloured strands, seven wires in each."""
    sheath = hsv(rng.random(), 0.1, rng.uniform(0.15, 0.85))
    pen.ellipse((0, 0), 0.85, shade(sheath, 0.7))
    pen.ellipse((0, 0), 0.79, sheath)
    hue, copper = rng.random(), hsv(0.07, rng.uniform(0.3, 0.7), rng.uniform(0.6, 0.95))
    for k, (x, y) in enumerate(around(3, 0.4, rng.uniform(0, 2))):
        pen.ellipse((x, y), 0.33, hsv(hue + k / 3, 0.7, rng.uniform(0.4, 0.9)))
        for dx, dy in [(0.0, 0.0), *around(6, 0.155)]:
            pen.ellipse((x + dx, y + dy), 0.075, copper)


def coin(rng: np.random.Generator, pen: Pen) -> None:
    """Disc with a rim, a ring of dots and a star."""
    dark, light = shades(rng, 0.12, (0.2, 0.6), (0.45, 0.9))
    pen.ellipse((0, 0), 0.8, light)
    pen.ellipse((0, 0), 0.73, dark)
    for point in around(int(rng.integers(12, 25)), 0.62):
        pen.ellipse(point, 0.035, light)
    points = int(rng.integers(4, 8))
    outer, inner = around(points, 0.42), around(points, rng.uniform(0.15, 0.25), np.pi / points)
    pen.polygon([p for pair in zip(outer, inner, strict=True) for p in pair], light)


TRACKS: tuple[tuple[tuple[Point, ...], ...], ...] = (
    (((-0.7, -0.3), (-0.2, -0.3), (-0.2, 0.5)), ((0.7, 0.3), (0.2, 0.3), (0.2, -0.5)), ((-0.6, 0.2), (0.6, 0.2))),
    (((-0.7, 0.0), (0.7, 0.0)), ((-0.4, -0.6), (-0.4, 0.6)), ((0.1, -0.6), (0.1, 0.6)), ((0.5, -0.6), (0.5, 0.6))),
    (((-0.7, -0.5), (0.0, 0.2), (0.7, 0.2)), ((-0.7, 0.0), (-0.2, 0.5), (0.7, 0.5)), ((-0.2, -0.6), (0.7, -0.2))),
    (
        ((-0.6, -0.6), (0.6, -0.6), (0.6, 0.6), (-0.6, 0.6)),
        ((-0.3, -0.3), (0.3, -0.3), (0.3, 0.3)),
        ((-0.7, 0.1), (0, 0.1)),
    ),
)
"""Four layouts of conductors on the circuit board."""


def circuit_board(rng: np.random.Generator, pen: Pen) -> None:
    """Board with tracks, two chips with legs, resistors and four holes."""
    board = hsv(rng.choice([0.35, 0.6, 0.0, rng.random()]), rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.55))
    track = shade(board, rng.uniform(1.4, 2.0))
    pen.box((0, 0), 0.82, 0.75, board, 0.06)
    for points in TRACKS[rng.integers(len(TRACKS))]:
        pen.line(points, 0.05, track)
    silver = hsv(0.6, 0.05, 0.8)
    for x, y in ((-0.35, -0.25), (0.3, 0.25)):
        for leg in np.linspace(-0.14, 0.14, 4):
            pen.line([(x - 0.26, y + leg), (x + 0.26, y + leg)], 0.04, silver)
        pen.box((x, y), 0.19, 0.2, hsv(0.6, 0.1, 0.12))
    body = any_colour(rng)
    for k in range(rng.integers(2, 5)):
        pen.box((-0.45 + 0.3 * k, 0.55), 0.1, 0.045, body)
    for x in (-0.72, 0.72):
        for y in (-0.65, 0.65):
            pen.ellipse((x, y), 0.055, None)


def button(rng: np.random.Generator, pen: Pen) -> None:
    """Disc with a raised rim and two or four holes."""
    dark, light = shades(rng, rng.random(), (0.1, 0.8))
    pen.ellipse((0, 0), 0.78, light)
    pen.ellipse((0, 0), rng.uniform(0.5, 0.66), dark)
    count = int(rng.choice([2, 4]))
    for point in around(count, rng.uniform(0.18, 0.28), np.pi / 4):
        pen.ellipse(point, rng.uniform(0.08, 0.11), None)


def plate(rng: np.random.Generator, pen: Pen) -> None:
    """Cover plate with an inner panel and four slotted fixings."""
    dark, light = shades(rng, 0.6, (0.0, 0.4), (0.4, 0.9))
    width, height = rng.uniform(0.65, 0.85), rng.uniform(0.5, 0.8)
    pen.box((0, 0), width, height, light, rng.uniform(0.02, 0.15))
    pen.box((0, 0), width * 0.62, height * 0.62, dark, 0.05)
    for x in (-0.82 * width, 0.82 * width):
        for y in (-0.8 * height, 0.8 * height):
            pen.ellipse((x, y), 0.075, shade(dark, 0.8))
            pen.line([(x - 0.05, y), (x + 0.05, y)], 0.025, shade(dark, 0.4))


def spring(rng: np.random.Generator, pen: Pen) -> None:
    """Zigzag of wire between two end bars."""
    dark, light = shades(rng, 0.6, (0.0, 0.3), (0.35, 0.9))
    turns, width = int(rng.integers(5, 9)), rng.uniform(0.35, 0.5)
    ys = np.linspace(-0.7, 0.7, 2 * turns)
    points = [((-width if k % 2 else width), float(y)) for k, y in enumerate(ys)]
    thickness = rng.uniform(0.07, 0.11)
    pen.line(points, thickness + 0.03, dark)
    pen.line(points, thickness - 0.02, light)
    for y in (-0.75, 0.75):
        pen.box((0, y), width + 0.1, 0.06, dark)


def brush(rng: np.random.Generator, pen: Pen) -> None:
    """Head with a lattice of bristle tufts in two colours."""
    body, tufts = any_colour(rng), (any_colour(rng), any_colour(rng))
    pen.box((0, 0), 0.85, 0.48, body, rng.uniform(0.1, 0.4))
    for row in range(3):
        for column in range(7):
            centre = (-0.66 + 0.22 * column, -0.27 + 0.27 * row)
            pen.ellipse(centre, 0.09, shade(tufts[(row + column) % 2], 0.7))
            pen.ellipse(centre, 0.065, tufts[(row + column) % 2])


def computer_chip(rng: np.random.Generator, pen: Pen) -> None:
    """Black package with legs on two or four sides and a notch mark."""
    silver, body = hsv(0.6, 0.05, rng.uniform(0.6, 0.9)), hsv(rng.random(), 0.15, rng.uniform(0.08, 0.3))
    side, legs = rng.uniform(0.5, 0.6), int(rng.integers(5, 9))
    quad = rng.random() < 0.5
    for offset in np.linspace(-side + 0.08, side - 0.08, legs):
        pen.line([(-0.8, offset), (0.8, offset)], 0.06, silver)
        if quad:
            pen.line([(offset, -0.8), (offset, 0.8)], 0.06, silver)
    pen.box((0, 0), side, side, body, 0.03)
    pen.ellipse((-side + 0.13, -side + 0.13), 0.06, shade(body, 2.5))
    for k in range(rng.integers(1, 4)):
        pen.line([(-0.3, 0.15 * k), (0.3, 0.15 * k)], 0.04, shade(body, 3))


def fuse(rng: np.random.Generator, pen: Pen) -> None:
    """Tube with two metal caps and coloured bands."""
    cap, tube = hsv(0.12, rng.uniform(0, 0.4), rng.uniform(0.55, 0.9)), any_colour(rng)
    pen.box((0, 0), 0.8, 0.27, tube, 0.04)
    for x in (-0.62, 0.62):
        pen.box((x, 0), 0.2, 0.31, cap, 0.03)
        pen.line([(x - 0.12, -0.28), (x - 0.12, 0.28)], 0.03, shade(cap, 0.7))
    for k in range(rng.integers(1, 4)):
        pen.box((-0.2 + 0.2 * k, 0), 0.05, 0.27, any_colour(rng))


def _part(rng: np.random.Generator, pen: Pen, centre: Point, radius: float, kind: int, colour: Colour | None) -> None:
    """Draw one of four simple shapes."""
    if kind == 0:
        pen.ellipse(centre, radius, colour)
    elif kind == 1:
        pen.box(centre, radius, radius * 0.6, colour, radius * 0.2)
    elif kind == 2:
        pen.polygon([(centre[0] + x, centre[1] + y) for x, y in around(int(3 + radius * 37) % 4 + 3, radius)], colour)
    else:
        pen.ring(centre, radius, 0.05, colour)


def assembly(rng: np.random.Generator, pen: Pen) -> None:
    """No thing in particular: a random body with random parts in mirror or turning symmetry.

    Only for pretraining and the ``seen`` split: a model needs many constructions, not only a few named ones.
    """
    dark, light = shades(rng, rng.random(), (0.0, 0.8), (0.2, 0.95))
    shape, width, height = rng.integers(4), rng.uniform(0.5, 0.85), rng.uniform(0.4, 0.85)
    for factor, colour in ((1.0, dark), (rng.uniform(0.8, 0.95), light)):
        if shape == 0:
            pen.ellipse((0, 0), width * factor, colour, height / width)
        elif shape == 1:
            pen.box((0, 0), width * factor, height * factor, colour, rng.uniform(0, 0.3))
        elif shape == 2:
            pen.polygon(around(int(4 + width * 1000) % 5 + 3, 0.85 * factor), colour)
        else:
            pen.box((0, 0), width * factor, 0.35 * height * factor, colour, 0.05)
            pen.box((0, 0), 0.35 * width * factor, height * factor, colour, 0.05)
    colours = (dark, light, any_colour(rng), any_colour(rng), shade(dark, 0.5))
    for _ in range(rng.integers(1, 6)):
        kind, colour = int(rng.integers(4)), colours[rng.integers(len(colours))]
        radius, distance, start = rng.uniform(0.05, 0.25), rng.uniform(0.1, 0.5), rng.uniform(0, np.pi)
        for point in around(int(rng.choice([1, 2, 3, 4, 6])), distance, start):
            _part(rng, pen, point, radius, kind, colour)
    if rng.random() < 0.5:
        for point in around(int(rng.choice([1, 2, 3, 4])), rng.uniform(0, 0.4), rng.uniform(0, np.pi)):
            pen.ellipse(point, rng.uniform(0.05, 0.12), None)


def screw(rng: np.random.Generator, pen: Pen) -> None:
    """Side view: slotted head, threaded shaft, point."""
    dark, light = shades(rng, 0.12, (0.0, 0.35), (0.4, 0.9))
    width = rng.uniform(0.15, 0.22)
    pen.polygon([(-0.4, -width), (0.65, -width), (0.88, 0), (0.65, width), (-0.4, width)], light)
    for x in np.arange(-0.3, 0.7, rng.uniform(0.1, 0.16)):
        pen.line([(x, -width - 0.05), (x + 0.07, width + 0.05)], 0.045, dark)
    pen.polygon([(-0.8, -0.4), (-0.7, -0.4), (-0.4, -width), (-0.4, width), (-0.7, 0.4), (-0.8, 0.4)], light)
    pen.line([(-0.8, 0), (-0.66, 0)], 0.09, shade(dark, 0.6))


def gear(rng: np.random.Generator, pen: Pen) -> None:
    """Toothed wheel with a bore and, in half of them, lightening holes."""
    dark, light = shades(rng, 0.6, (0.0, 0.4), (0.35, 0.9))
    teeth = int(rng.integers(9, 17))
    step = 2 * np.pi / teeth
    outline: list[Point] = []
    for k in range(teeth):
        for offset, radius in ((0.0, 0.68), (0.2, 0.86), (0.5, 0.86), (0.7, 0.68)):
            angle = (k + offset) * step
            outline.append((radius * float(np.cos(angle)), radius * float(np.sin(angle))))
    pen.polygon(outline, light)
    pen.ring((0, 0), 0.6, 0.04, dark)
    if rng.random() < 0.5:
        for point in around(5, 0.4):
            pen.ellipse(point, 0.1, None)
    pen.ellipse((0, 0), 0.22, dark)
    pen.ellipse((0, 0), 0.15, None)


def capsule(rng: np.random.Generator, pen: Pen) -> None:
    """Two-coloured capsule with a seam and a highlight."""
    first, second = any_colour(rng), any_colour(rng)
    radius = rng.uniform(0.24, 0.34)
    pen.box((0, 0), 0.82, radius, first, radius)
    pen.box((0.4, 0), 0.42, radius, second, radius)
    pen.box((0.1, 0), 0.12, radius, second)
    pen.line([(0, -radius), (0, radius)], 0.04, shade(first, 0.6))
    pen.line([(-0.55, -radius * 0.5), (0.55, -radius * 0.5)], 0.06, hsv(0, 0, 0.95))


def cookie(rng: np.random.Generator, pen: Pen) -> None:
    """Uneven disc with chips of chocolate."""
    dark, light = shades(rng, 0.09, (0.35, 0.7), (0.5, 0.9))
    for radius, colour in ((0.82, dark), (0.76, light)):
        pen.polygon(
            [
                (x * wobble, y * wobble)
                for (x, y), wobble in zip(around(24, radius), rng.uniform(0.95, 1.03, 24), strict=True)
            ],
            colour,
        )
    chip = hsv(0.06, 0.6, rng.uniform(0.1, 0.3))
    for _ in range(rng.integers(8, 15)):
        angle, distance = rng.uniform(0, 2 * np.pi), 0.62 * np.sqrt(rng.random())
        pen.ellipse((float(distance * np.cos(angle)), float(distance * np.sin(angle))), rng.uniform(0.05, 0.1), chip)


def bearing(rng: np.random.Generator, pen: Pen) -> None:
    """Two rings with balls between them."""
    dark, light = shades(rng, 0.6, (0.0, 0.2), (0.4, 0.9))
    pen.ellipse((0, 0), 0.84, light)
    pen.ellipse((0, 0), 0.68, shade(dark, 0.5))
    for point in around(int(rng.integers(8, 12)), 0.53):
        pen.ellipse(point, 0.13, light)
        pen.ellipse((point[0] - 0.03, point[1] - 0.03), 0.05, hsv(0, 0, 0.97))
    pen.ellipse((0, 0), 0.38, dark)
    pen.ellipse((0, 0), 0.26, None)


SEEN_OBJECTS: dict[str, Drawing] = named(
    washer, nut, bottle, pill, cable, coin, circuit_board, button, plate, spring, brush, computer_chip, fuse, assembly
)
"""Objects that the mini CLIP was trained on."""

HELD_OUT_OBJECTS: dict[str, Drawing] = named(screw, gear, capsule, cookie, bearing)
"""Objects that the mini CLIP never saw, neither as pictures nor as words."""

OBJECTS: dict[str, Drawing] = {**SEEN_OBJECTS, **HELD_OUT_OBJECTS}
"""All objects by class name."""
