"""A drawing surface for objects: plain shapes on a transparent layer, in coordinates from -1 to 1."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from zsad.synthetic.noise import Colour

Point = tuple[float, float]


class Pen:
    """Draws flat shapes on a transparent square layer; the colour None cuts a hole.

    Args:
        side: Side of the layer in pixels. Coordinates run from -1 to 1 in both directions, y downwards.
    """

    def __init__(self, side: int) -> None:
        self.layer = Image.new("RGBA", (side, side))
        self.half = side / 2
        self._draw = ImageDraw.Draw(self.layer)

    def _place(self, points: Iterable[Point]) -> list[Point]:
        return [((x + 1) * self.half, (y + 1) * self.half) for x, y in points]

    @staticmethod
    def _ink(colour: Colour | None) -> tuple[int, int, int, int]:
        if colour is None:
            return 0, 0, 0, 0
        red, green, blue = (int(255 * min(max(part, 0.0), 1.0)) for part in colour)
        return red, green, blue, 255

    def ellipse(self, centre: Point, radius: float, colour: Colour | None, ratio: float = 1.0) -> None:
        """Fill an ellipse of half width ``radius`` and half height ``radius * ratio``."""
        (x, y), height = centre, radius * ratio
        self._draw.ellipse(self._place([(x - radius, y - height), (x + radius, y + height)]), fill=self._ink(colour))

    def ring(self, centre: Point, radius: float, width: float, colour: Colour | None) -> None:
        """Draw a circle's outline of the given width, inwards from ``radius``."""
        x, y = centre
        box = self._place([(x - radius, y - radius), (x + radius, y + radius)])
        self._draw.ellipse(box, outline=self._ink(colour), width=max(1, round(width * self.half)))

    def box(self, centre: Point, width: float, height: float, colour: Colour | None, corner: float = 0.0) -> None:
        """Fill an upright rectangle of half sides ``width`` and ``height``, its corners rounded by ``corner``."""
        x, y = centre
        box = self._place([(x - width, y - height), (x + width, y + height)])
        self._draw.rounded_rectangle(box, radius=corner * self.half, fill=self._ink(colour))

    def polygon(self, points: Sequence[Point], colour: Colour | None) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._place(points), fill=self._ink(colour))

    def line(self, points: Sequence[Point], width: float, colour: Colour | None) -> None:
        """Draw a line of the given width through all points."""
        self._draw.line(
            self._place(points), fill=self._ink(colour), width=max(1, round(width * self.half)), joint="curve"
        )


def around(count: int, radius: float, start: float = 0.0) -> list[Point]:
    """Return ``count`` points at equal angles on a circle, from the angle ``start`` (radians)."""
    angles = start + 2 * np.pi * np.arange(count) / count
    return [(float(radius * np.cos(angle)), float(radius * np.sin(angle))) for angle in angles]


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour made lighter (> 1) or darker (< 1)."""
    red, green, blue = (min(max(part * factor, 0.0), 1.0) for part in colour)
    return red, green, blue
