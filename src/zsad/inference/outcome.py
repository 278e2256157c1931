"""What a model says of one picture at its own size, or why it says nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class ScoreError(ValueError):
    """A method has no score for a picture; the message names the picture and the reason."""


@dataclass(frozen=True)
class Outcome:
    """What the model says of one picture.

    Args:
        score: NaN if there is none.
        map: (height, width) at the model's size, of tiles at that of the result; empty if there is none.
        explanation: Descriptors and cosines.
        error: Why there is no score; None if there is one.
        warning: What makes the score doubtful.
        full: The map at the picture's own size, if it was asked for.
        parts: Of how many parts the picture's score is made.
    """

    score: float
    map: NDArray[np.float32]
    explanation: tuple[tuple[str, float], ...] = ()
    error: ScoreError | None = None
    warning: str | None = None
    full: NDArray[np.float32] | None = None
    parts: int = 1

    @classmethod
    def nothing(cls, error: ScoreError | None = None) -> "Outcome":
        """Return the outcome of a picture that has no score."""
        return cls(float("nan"), np.empty((0, 0), np.float32), (), error)


Pending = Callable[[], list[Outcome]]
"""Waits for the outcomes of a batch and returns them, in order."""
