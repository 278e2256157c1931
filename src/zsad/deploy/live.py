"""A method in torch behind the same members as an exported folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from zsad import __version__
from zsad.clip.loading import is_named
from zsad.decision.card import Card
from zsad.images.overlay import Limits
from zsad.images.tensors import normalise, to_pixels
from zsad.inference.identity import model_identity, protocol_identity
from zsad.inference.opening import IN_MEMORY, Opened
from zsad.inference.predictor import Predictor
from zsad.inference.scoring import score_all
from zsad.methods.musc import Transductive

_NO_PICTURE = Image.new("RGB", (1, 1))


class Live:
    """A predictor with fixed classes, for :mod:`zsad.deploy.serve`.

    Args:
        predictor: With its card, if it has one.
        classes: What may be asked about; their prompts are encoded now, and no others while it serves.

    Raises:
        ValueError: No class is given, or the method would compare images of different clients with each other.
    """

    def __init__(self, predictor: Predictor, classes: Sequence[str]) -> None:
        if not classes:
            raise ValueError("A server needs the name of at least one class.")
        method = predictor.method
        if isinstance(method, Transductive) and any(method.memory.get(name) is None for name in classes):
            raise ValueError(
                f"{type(method).__name__} compares images with each other, a server scores one at a time: "
                f"give it a panel (--option panel=FILE)."
            )
        self._predictor, self.classes = predictor, tuple(classes)
        if predictor.calibration is not None:
            for name in classes:
                predictor.calibration.entry(name)
        method.text(list(classes))
        identity = model_identity(method, precision=predictor.precision)
        if not is_named(method.clip.name):  # open_clip's model and a file of this machine
            identity["backbone"] = f"{method.clip.name.partition('/')[0]}/<file>"
        self.meta: Mapping[str, Any] = {"zsad": __version__, **identity, "protocol": protocol_identity(method)}

    @property
    def calibration(self) -> Card | None:
        """The predictor's card."""
        return self._predictor.calibration

    @property
    def map_range(self) -> Limits | None:
        """Range of the maps."""
        return self._predictor.map_range

    def index(self, class_name: str) -> int:
        """Return the place of a class.

        Raises:
            ValueError: It is not one of those given at the start.
        """
        if class_name in self.classes:
            return self.classes.index(class_name)
        raise ValueError(f"This server knows the classes {', '.join(self.classes)}; --class-name adds others.")

    def prepare(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return an RGB picture at the model's size, (3, height, width)."""
        return np.asarray(to_pixels(picture, self._predictor.method.protocol).numpy())

    def infer(
        self, pixels: NDArray[np.uint8], class_index: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scores (batch,) and maps (batch, height, width).

        Raises:
            ScoreError: The method has no score for one of them.
        """
        images = normalise(torch.from_numpy(pixels), self._predictor.method.protocol)
        names = [self.classes[place] for place in class_index]
        batch = [Opened(name, None, IN_MEMORY, _NO_PICTURE, image) for image, name in zip(images, names, strict=True)]
        outcomes = score_all(self._predictor.method, batch)
        for one in outcomes:
            if one.error is not None:
                raise one.error
        scores = np.array([one.score for one in outcomes], dtype=np.float32)
        return scores, np.stack([one.map for one in outcomes])
