"""No image of one's own: the place of each score within its folder. Never a label: every folder has a highest score."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.decision.conformal import finite

_MAD = 1.4826  # makes the median absolute deviation of a normal law its standard deviation


class Relative(NamedTuple):
    """Places of scores within one run: they change with the folder ("transductive")."""

    rank: NDArray[np.int64]
    """(m,), 1 for the highest score; equal scores share the better rank."""
    robust_z: NDArray[np.float64]
    """(m,) ``(s - median) / (1.4826 MAD)``; 0 where all scores are equal to the median, NaN if only the MAD is 0."""


def relative(scores: ArrayLike) -> Relative:
    """Return rank and robust z of each score, (m,) finite."""
    s = finite(scores, "scores").astype(np.float64).ravel()
    if not s.size:
        return Relative(np.empty(0, np.int64), np.empty(0))
    rank = s.size - np.searchsorted(np.sort(s), s, side="right") + 1
    away = s - np.median(s)
    spread = _MAD * np.median(np.abs(away))
    z = away / spread if spread > 0 else np.where(away == 0, 0.0, np.nan)
    return Relative(rank, z)
