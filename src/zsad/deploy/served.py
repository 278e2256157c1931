"""What the server asks of a model, whoever computes: an exported folder or a method in torch."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.decision.card import Card
from zsad.images.overlay import Limits


class Served(Protocol):
    """A model with fixed classes."""

    @property
    def classes(self) -> Sequence[str]:
        """Names in the order of ``class_index``."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the model is, as ``meta.json`` of an exported folder has it."""

    @property
    def calibration(self) -> Card | None:
        """A card of this very model, or none."""

    @property
    def map_range(self) -> Limits | None:
        """Values between which the maps lie, None if they are unbounded."""

    def index(self, class_name: str) -> int:
        """Return the place of a class.

        Raises:
            ValueError: The model does not know it; the message says which it knows.
        """

    def prepare(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return an RGB picture at the model's size, (3, height, width)."""

    def infer(
        self, pixels: NDArray[np.uint8], class_index: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scores (batch,) and maps (batch, height, width) of pictures (batch, 3, height, width)."""
