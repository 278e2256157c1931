"""Which prompts speak about an image, and their mean (section 3.2 of the paper)."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Fallback = Literal["both", "side"]
Prototype = Literal["mean-renormalised", "mean"]


class Selection(NamedTuple):
    """Which prompts speak about an image; row 0 normal, row 1 abnormal. Padding has delta 0 and is never kept."""

    delta: Tensor
    """(batch, 2, prompts) distance of each similarity to the interval of the other side."""
    score: Tensor
    """(batch, 2, prompts) contextual score in [0, 1)."""
    keep: Tensor
    """(batch, 2, prompts) bool, delta > 0."""
    used: Tensor
    """(batch, 2, prompts) bool, what is left to use after the fallback for empty sides."""


def select_prompts(similarity: Tensor, valid: Tensor, k: float = 1.0, empty: Fallback = "both") -> Selection:
    """Return which prompts tell normal from abnormal for each image (section 3.2, equations 2 to 4).

    A prompt is kept if its similarity lies outside the interval that the other side's similarities span. The score is
    tanh(k delta / 2): equation 4 as printed never falls below one half, so nothing would be dropped.

    Args:
        similarity: Cosines of image and prompts, (batch, 2, prompts): normal, abnormal.
        valid: False on padding, same shape.
        k: Slope of the score; it changes no selection.
        empty: Where no prompt of a side is kept: ``"both"`` uses all prompts of both sides, ``"side"`` all of its own.
    """
    similarity = similarity.float()
    low = similarity.masked_fill(~valid, torch.inf).amin(dim=-1, keepdim=True)
    high = similarity.masked_fill(~valid, -torch.inf).amax(dim=-1, keepdim=True)
    own, other = (
        torch.maximum(lo - similarity, similarity - hi).clamp_min(0)
        for lo, hi in ((low, high), (low.flip(1), high.flip(1)))
    )
    delta = (other - own).abs().masked_fill(~valid, 0)
    keep = delta > 0
    lost = ~keep.any(dim=-1, keepdim=True)
    if empty == "both":
        lost = lost.any(dim=1, keepdim=True)
    return Selection(delta, torch.tanh(k * delta / 2), keep, torch.where(lost, valid, keep))


def prototypes(text: Tensor, used: Tensor, renormalise: bool = True) -> Tensor:
    """Return the mean of the prompts in use per image and side, (batch, 2, dim), of unit length if ``renormalise``.

    Args:
        text: Prompt embeddings, (batch, 2, prompts, dim).
        used: Which of them count, (batch, 2, prompts) bool.
        renormalise: Whether to give the means unit length.
    """
    weight = used.to(text.dtype)
    # a side without prompts (one-class design) gives zeros
    mean = torch.einsum("bsn,bsnd->bsd", weight, text) / weight.sum(dim=-1, keepdim=True).clamp_min(1)
    return F.normalize(mean, dim=-1) if renormalise else mean
