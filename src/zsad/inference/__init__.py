"""Scores for pictures: a method that is loaded, its results, and rows that survive a kill."""

from typing import TYPE_CHECKING

from zsad import lazily

if TYPE_CHECKING:
    from zsad.inference.devices import find_device
    from zsad.inference.loading import PUBLISHED, UNTRAINED, load_model
    from zsad.inference.outcome import ScoreError
    from zsad.inference.predictor import Predictor, Size
    from zsad.inference.result import Result
    from zsad.weights.checkpoints import read_checkpoint

__all__ = [
    "PUBLISHED",
    "UNTRAINED",
    "Predictor",
    "Result",
    "ScoreError",
    "Size",
    "find_device",
    "load_model",
    "read_checkpoint",
]

__getattr__ = lazily(
    __name__,
    {
        "PUBLISHED": "zsad.inference.loading",
        "UNTRAINED": "zsad.inference.loading",
        "Predictor": "zsad.inference.predictor",
        "Result": "zsad.inference.result",
        "ScoreError": "zsad.inference.outcome",
        "Size": "zsad.inference.opening",
        "find_device": "zsad.inference.devices",
        "load_model": "zsad.inference.loading",
        "read_checkpoint": "zsad.weights.checkpoints",
    },
)
