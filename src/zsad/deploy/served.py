"""What the server asks of a model, whoever computes: an exported folder or a method in torch."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image

from zsad.decision.card import Card
from zsad.inference.opening import Opened, Size
from zsad.inference.outcome import Outcome
from zsad.inference.result import Result


class Served(Protocol):
    """A predictor with fixed classes; the methods are those of :class:`~zsad.inference.base.BasePredictor`."""

    calibration: Card | None

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the model is, as ``meta.json`` of an exported folder has it."""

    @property
    def classes(self) -> Sequence[str]:
        """What may be asked about; any class goes where ``meta["class_agnostic"]`` is true."""

    def prepare(self, picture: Image.Image) -> Any:
        """Return an upright picture as the model sees it, (3, height, width)."""

    def outcomes(self, batch: Sequence[Opened]) -> list[Outcome]:
        """Return what the model says of pictures that could be opened, in order."""

    def results_of(
        self, batch: list[Opened], found: list[Outcome], threshold: float | None, strict: bool, size: Size
    ) -> list[Result]:
        """Return the results of pictures, given their outcomes."""
