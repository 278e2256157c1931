"""Scores for pictures: a method that is loaded, its results, and rows that survive a kill."""

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
