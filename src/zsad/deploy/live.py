"""A method in torch behind the same members as an exported folder."""

from collections.abc import Mapping, Sequence
from typing import Any

from zsad import __version__
from zsad.inference.identity import model_identity, protocol_identity, shown_backbone
from zsad.inference.predictor import Predictor


class Live:
    """A predictor with fixed classes, for :mod:`zsad.deploy.serve`.

    Args:
        predictor: With its card, if it has one.
        classes: What may be asked about; their prompts are encoded now, and no others while it serves.

    Raises:
        CardError: The card lacks a class.
        ValueError: No class is given, or the method would compare images of different clients with each other.
    """

    def __init__(self, predictor: Predictor, classes: Sequence[str]) -> None:
        if not classes:
            raise ValueError("A server needs the name of at least one class.")
        method = predictor.method
        if any(map(predictor.lacks_panel, classes)):
            raise ValueError(
                f"{type(method).__name__} compares images with each other, a server scores one at a time: "
                f"give it a panel (--option panel=FILE)."
            )
        self.classes, self.calibration = tuple(classes), predictor.calibration
        if self.calibration is not None:
            for name in classes:
                self.calibration.entry(name)
        method.text(list(classes))
        identity = {**model_identity(method, precision=predictor.precision), "backbone": shown_backbone(method)}
        self.meta: Mapping[str, Any] = {
            "zsad": __version__, "model": identity, "protocol": protocol_identity(method), "class_agnostic": False
        }  # fmt: skip
        self.prepare, self.outcomes, self.results_of = predictor.prepare, predictor.outcomes, predictor.results_of
