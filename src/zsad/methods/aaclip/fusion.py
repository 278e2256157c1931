"""AA-CLIP's evaluation rule for image scores: a score that depends on the whole test set of a class."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

FUSION: dict[str, tuple[float, float]] = {"industrial": (0.5, 0.5), "medical": (1.0, 0.0)}
"""Domain -> weights of the maximum of the image's map and of its image score."""


class Normalised(NamedTuple):
    """Values of one class brought to [0, 1] by the class's own extremes."""

    values: Tensor
    constant: bool
    """True if all values were equal; they are then 0, where the released code divides 0 by 0."""


def class_min_max(values: Tensor, low: Tensor | float, high: Tensor | float) -> Normalised:
    """Return (values - low) / (high - low).

    Args:
        values: Any shape, all of one class.
        low: Smallest value of the class, of all its images.
        high: Greatest value of the class; if it is exactly 1 nothing is changed, as in the released code.
    """
    low, high = float(low), float(high)
    if high == 1:
        return Normalised(values, False)
    if high == low:
        return Normalised(torch.zeros_like(values), True)
    return Normalised((values - low) / (high - low), False)


def fused_scores(
    pred_score: Tensor,
    map_max: Tensor,
    map_low: Tensor | float,
    map_high: Tensor | float,
    weights: tuple[float, float] = FUSION["industrial"],
) -> Tensor:
    """Return AA-CLIP's final image scores of one class, (images,), from what an evaluator can keep without the maps.

    To reproduce the published tables only: the score of an image then depends on all other images of its class, which
    is no property of a zero-shot detector. Off by default wherever it is offered.

    Args:
        pred_score: Image scores of all images of the class, (images,).
        map_max: Maximum of each image's map, (images,).
        map_low: Smallest value in the maps of the class.
        map_high: Greatest value in the maps of the class.
        weights: Of the map's maximum and of the image score; see :data:`FUSION`.

    Raises:
        ValueError: If the shapes differ.

    Warns:
        RuntimeWarning: If all maps or all scores of the class are equal; the term is then 0.

    References:
        AA-CLIP (arXiv 2503.06661), released evaluation code; the paper speaks of the cosine alone.
    """
    if pred_score.ndim != 1 or pred_score.shape != map_max.shape:
        shapes = f"{tuple(pred_score.shape)} and {tuple(map_max.shape)}"
        raise ValueError(f"Expected two vectors of equal length, got {shapes}.")
    if not len(pred_score):
        return pred_score
    terms = {
        "maps": class_min_max(map_max, map_low, map_high),
        "image scores": class_min_max(pred_score, pred_score.min(), pred_score.max()),
    }
    for what, term in terms.items():
        if term.constant:
            message = f"All {what} of the class are equal: they count as 0 in the fused scores."
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    return weights[0] * terms["maps"].values + weights[1] * terms["image scores"].values
