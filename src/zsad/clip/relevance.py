"""Relevance of patches for a scalar of the class token: attention times its gradient, multiplied over the blocks.

Chefer et al., "Generic Attention-model Explainability", arXiv 2103.15679, in the form of the released CLIP notebook.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.clip.backbone import Clip
from zsad.clip.blocks import Step, after_attention, merge_heads, qkv, whole

Target = Callable[[Tensor], Tensor]
"""Class-token embeddings (batch, dim), not normalised -> the scalar to explain of each image, (batch,)."""


class Relevance(NamedTuple):
    """What an explanation found."""

    patches: Tensor
    """(batch, patches), row by row: contribution of each patch, non-negative."""
    scalar: Tensor
    """(batch,): what was explained."""
    embedding: Tensor
    """(batch, dim): the class token's embedding that it was computed from, not normalised."""


def relevance(
    clip: Clip,
    image: Tensor,
    target: Target,
    first: int | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
) -> Relevance:
    """Return how much each patch contributed to a scalar of the class token.

    Per block, attention probabilities are multiplied by their gradients, products below zero dropped and the heads
    averaged; the blocks are multiplied together with an added identity. Images do not influence each other, and it
    works under inference mode: tensors made there are copied.

    Args:
        clip: The frozen backbone, with ordinary attention.
        image: Normalised images, (batch, 3, height, width).
        target: The scalar to explain; each image's value must depend on its own embedding only.
        first: Lowest block of the product, from 1; None takes the last block alone, as the notebook does.
            The probabilities of these blocks are kept: of all blocks, about 70 MB per image for ViT-B/16+ at 240 pixels
            and 6 GB for ViT-L/14 at 518.
        head: From the class token after the last block, (batch, width), to the embedding; ``ln_post`` and the
            projection by default.

    Raises:
        ValueError: If there is no such block, or the target does not depend on the embedding.
    """
    first = clip.depth if first is None else first
    if not 1 <= first <= clip.depth:
        raise ValueError(f"first_block must lie in 1..{clip.depth} for '{clip.name}', got {first}.")
    head = head or (lambda cls: clip.project(clip.ln_post(cls)))
    device = image.device.type
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        kept: list[Tensor] = []
        with torch.no_grad():
            x = clip.embed_image(image.clone())  # an inference tensor cannot take part in a graph
        x, _ = clip.run_image(x, _visible(first, kept))
        embedding = head(x[:, 0])
        scalar = target(embedding)
        name = getattr(target, "__name__", type(target).__name__)
        if scalar.shape != image.shape[:1]:
            raise ValueError(f"Target '{name}' must give one number per image, got shape {tuple(scalar.shape)}.")
        if not scalar.requires_grad:
            raise ValueError(f"Target '{name}' does not depend on the class token, or was computed without gradient.")
        gradients = torch.autograd.grad(scalar.sum(), kept)
    with torch.no_grad(), torch.autocast(device, enabled=False):
        row = F.one_hot(torch.zeros(len(image), dtype=torch.long), kept[0].shape[-1]).to(kept[0])[:, None]
        # row of the class token of (I + C_last) ... (I + C_first), from the left: O(n^2) per block
        for probability, gradient in zip(reversed(kept), reversed(gradients), strict=True):
            row = row + row @ (gradient * probability).clamp_min(0).mean(dim=1)
    return Relevance(row[:, 0, 1:], scalar.detach(), embedding.detach())


def text_target(text: Tensor, scale: Tensor | float) -> Target:
    """Return the released target: the scaled cosine of each image with its text.

    Args:
        text: One vector per image, (batch, dim), any length.
        scale: ``clip.logit_scale``, 100 for OpenAI's models, or one over a temperature. With several blocks it changes
            the mixture, so it is no mere unit.
    """

    def cosine(embedding: Tensor) -> Tensor:
        unit = F.normalize(text.clone().to(embedding.dtype), dim=-1)
        factor = scale.clone() if isinstance(scale, Tensor) else scale
        return factor * (F.normalize(embedding, dim=-1) * unit).sum(dim=-1)

    return cosine


def margin_target(text: Tensor, temperature: float) -> Target:
    """Return the target that a softmax score ranks images by: cosine with anomalous minus cosine with normal, scaled.

    The probability itself would be a poor target: where it saturates its gradient vanishes.

    Args:
        text: Normal and anomalous vector of each image, (batch, 2, dim), any length.
        temperature: Divisor of the cosines.
    """
    normal, anomalous = (text_target(text[:, row], 1 / temperature) for row in (0, 1))

    def margin(embedding: Tensor) -> Tensor:
        return anomalous(embedding) - normal(embedding)

    return margin


def _visible(first: int, kept: list[Tensor]) -> Step:
    """Return the plain step that keeps the attention probabilities from block ``first`` on, ready for gradients."""

    def step(number: int, block: Any, x: Tensor) -> Tensor:
        if number < first:
            with torch.no_grad():
                return whole(block, x)
        q, k, v = qkv(block, block.ln_1(x))
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        probability = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        if not probability.requires_grad:
            probability.requires_grad_()  # the weights are frozen: nothing below has a gradient
        kept.append(probability)
        return after_attention(block, x, merge_heads(block, probability.to(v.dtype) @ v))

    return step
