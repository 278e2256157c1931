"""Re-scoring of images by those that look alike as a whole (RsCIN); it can serve any method's scores."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "float16"]
Scale = Literal["distance", "minmax"]

_ROWS = 1024  # similarities are computed for so many images at a time
_TINY = 1e-6  # a sum of weights nearer to zero says nothing: similarities of V2's features may be negative


def rescore(
    scores: Tensor,
    features: Tensor,
    windows: Sequence[int] = (1, 2, 3),
    precision: Precision = "float32",
    scale: Scale = "distance",
    known: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return each score averaged with those of the most similar images, weighted by similarity, (images,) float32.

    Weights sum to one, so scaling before or after makes no difference to the ranking.

    Args:
        scores: One per image, (images,).
        features: Unit-length features of the whole images, (images, dim).
        windows: Numbers of most similar images, the image itself among them; the results of all are averaged. More
            than there are images means all. A list with 0 returns the scores unchanged.
        precision: ``"float16"`` rounds features and similarities as the released code does, which picks other
            neighbours.
        scale: ``"minmax"`` scales the scores to [0, 1] first, as the released code does, by the range of all images, or
            of the known ones, which new ones may leave; equal scores become 0.
        known: Scores (known,) before re-scoring and features (known, dim) of images that each image is compared with
            besides itself; None compares all with each other.
    """
    if 0 in windows:
        return scores
    others = scores if known is None else known[0]
    own, others = (scaled(some.float(), others.float(), scale) for some in (scores, others))
    if known is not None:
        with_itself = _similarity(features[:, None], features[:, None], precision)[:, 0]  # (images, 1)
        similar = torch.cat([_similarity(features, known[1], precision), with_itself], dim=1)
        return _averaged(similar, torch.cat([others.expand(len(own), -1), own[:, None]], dim=1), windows)
    blocks = [
        _averaged(_similarity(some, features, precision), own.expand(len(some), -1), windows)
        for some in features.split(_ROWS)
    ]
    return torch.cat(blocks)


def scaled(scores: Tensor, known: Tensor, scale: Scale) -> Tensor:
    """Return scores as they are, or brought to [0, 1] by the range of the known ones; 0 if those are all equal."""
    if scale == "distance":
        return scores
    low, high = known.min(), known.max()
    return (scores - low) / (high - low) if high > low else torch.zeros_like(scores)


def _similarity(a: Tensor, b: Tensor, precision: Precision) -> Tensor:
    if precision == "float32":
        return a.float() @ b.float().mT
    return (a.half().float() @ b.half().float().mT).half()


def _averaged(similar: Tensor, scores: Tensor, windows: Sequence[int]) -> Tensor:
    """Weighted means of (rows, images) scores over the most similar images of each row, averaged over the windows."""
    best = similar.topk(min(max(windows), similar.shape[1]), dim=1)
    weights, chosen = best.values.float(), scores.gather(1, best.indices)
    means = []
    for window in windows:
        total = weights[:, :window].sum(dim=1)
        mean = (weights[:, :window] * chosen[:, :window]).sum(dim=1) / total
        means.append(torch.where(total.abs() < _TINY, chosen[:, 0], mean))
    return torch.stack(means).mean(dim=0)
