"""How MVFA puts text and references together: by fixed ranges, or by the extremes of a class's whole test set."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zsad.datamodules.base import batches
from zsad.methods.mvfa.adapters import Branch, minmax
from zsad.types import Prediction


class Terms(NamedTuple):
    """What is fused, each a sum over layers."""

    zero_map: Tensor
    """Anomalous probability of the segmentation branch, (batch, height, width), in [0, layers]."""
    zero_score: Tensor
    """Mean anomalous probability of the detection branch, (batch,), in [0, layers]."""
    few_map: Tensor | None
    """Distance to the references, (batch, height, width), in [0, 2 * layers]; None without references."""

    @property
    def few_score(self) -> Tensor:
        """Mean of the distance over the pixels of the enlarged map, (batch,)."""
        assert self.few_map is not None
        return self.few_map.mean(dim=(1, 2))


class Extremes(NamedTuple):
    """Least and greatest value of each term among all test images of a class."""

    zero_map: tuple[float, float]
    few_map: tuple[float, float]
    zero_score: tuple[float, float]
    few_score: tuple[float, float]

    @classmethod
    def of(cls, terms: Terms) -> "Extremes":
        """Return the extremes of a batch."""
        assert terms.few_map is not None
        pairs = (terms.zero_map, terms.few_map, terms.zero_score, terms.few_score)
        return cls(*((float(one.min()), float(one.max())) for one in pairs))

    def wider(self, other: "Extremes") -> "Extremes":
        """Return the extremes of both."""
        return Extremes(
            *((min(mine[0], theirs[0]), max(mine[1], theirs[1])) for mine, theirs in zip(self, other, strict=True))
        )


class Fusion(NamedTuple):
    """Half text, half references, both brought to [0, 1].

    Args:
        branch: ``"seg"``: the score is the maximum of the fused map. ``"det"``: text score and mean distance are fused.
        layers: Number of layers that the terms sum over.
    """

    branch: Branch
    layers: int

    def __call__(self, terms: Terms, extremes: Sequence[Extremes] | None = None) -> Prediction:
        """Return fused maps and scores.

        Args:
            terms: With references.
            extremes: Of each image's class; None takes the ranges that the terms can have, (0, layers) and
                (0, 2 * layers).
        """
        assert terms.few_map is not None
        limits = extremes or [self._fixed()]
        maps = self._half(terms.zero_map, [one.zero_map for one in limits])
        maps = maps + self._half(terms.few_map, [one.few_map for one in limits])
        if self.branch == "seg":
            return Prediction(maps, maps.amax(dim=(1, 2)))
        scores = self._half(terms.zero_score, [one.zero_score for one in limits])
        return Prediction(maps, scores + self._half(terms.few_score, [one.few_score for one in limits]))

    def _fixed(self) -> Extremes:
        zero, few = (0.0, float(self.layers)), (0.0, 2.0 * self.layers)
        return Extremes(zero, few, zero, few)

    @staticmethod
    def _half(values: Tensor, limits: Sequence[tuple[float, float]]) -> Tensor:
        if len(limits) == 1:  # of all images, however many: an export fixes no number
            return 0.5 * minmax(values, *limits[0])
        return 0.5 * torch.stack([minmax(one, low, high) for one, (low, high) in zip(values, limits, strict=True)])


@torch.no_grad()
def collect(model: Any, source: Any, split: str | None = None) -> dict[str, Extremes]:
    """Return the extremes of each class that has references, from one pass over a part of the data.

    Args:
        model: The method, with its references.
        source: A data module.
        split: Part of the data; None is the test part.
    """
    found: dict[str, Extremes] = {}
    for batch in batches(source, split or "test"):
        names, image = batch["class_name"], batch["image"].to(model.device)
        text = model.text(names)
        for place, name in enumerate(names):
            part = slice(place, place + 1)
            one = Extremes.of(model.terms(image[part], text[part], [name]))
            found[name] = found[name].wider(one) if name in found else one
    return found
