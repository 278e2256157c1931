"""The outcome of what was looked at becomes that of the picture: a map with a place for what was left out."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsad.images.overlay import Limits
from zsad.images.picture import Size
from zsad.inference.opening import Opened
from zsad.inference.outcome import Outcome, ScoreError

Map = NDArray[np.float32]
Enlarge = Callable[[Map, Size], Map]
"""Brings a map bilinearly to (height, width)."""


class Placed(NamedTuple):
    """What is said of a picture."""

    score: float
    anomaly_map: Map
    """(height, width) of the result."""
    left_out: NDArray[np.bool_] | None
    """Pixels of the map that do not count; None if all do."""
    full: Map | None
    """The map as it was computed, or at the picture's own size where it has to be known; None if not asked for."""


def place(one: Opened, outcome: Outcome, enlarge: Enlarge, limits: Limits | None, full: bool = False) -> Placed:
    """Return the score and map of a picture that could be scored.

    What was left out has the lower end of the range, or the smallest value of the map where that is lower or there is
    no range. With a mask the score is the maximum of the map over what is left, at the picture's own size: the method
    has seen what the mask hides.

    Args:
        one: The picture.
        outcome: Of what was looked at.
        enlarge: As the predictor does it.
        limits: Range of the maps.
        full: Whether the map is asked for at the picture's own size.

    Raises:
        ScoreError: Nothing is left to look at.
    """
    side = (one.picture.height, one.picture.width)
    known = outcome.map if outcome.full is None else outcome.full
    if not one.where:
        return Placed(outcome.score, enlarge(outcome.map, side), None, known if full else None)
    assert one.size is not None
    low = float(outcome.map.min())
    low = low if limits is None else min(low, limits[0])
    score = outcome.score
    if one.where.ignore_mask is not None:
        left, top, right, bottom = one.box
        counts = ~one.where.left_out(one.size, one.size)[top:bottom, left:right]
        if not counts.any():
            raise ScoreError(f"Cannot score '{one.called}': the mask '{one.where.ignore_mask}' leaves nothing of it.")
        score = float(enlarge(known, counts.shape).max(where=counts, initial=-np.inf))
    left_out = one.where.left_out(one.size, side)
    own = _spread(one, known, enlarge, low, one.size) if full else None
    return Placed(score, _spread(one, outcome.map, enlarge, low, side), left_out, own)


def _spread(one: Opened, values: Map, enlarge: Enlarge, low: float, size: Size) -> Map:
    """Return the map of what was looked at as one of the whole picture, (height, width) of ``size``."""
    assert one.size is not None
    left, top, right, bottom = one.inside(size)
    out = np.full(size, low, np.float32)
    out[top:bottom, left:right] = enlarge(values, (bottom - top, right - left))
    out[one.where.left_out(one.size, size)] = low
    return out
