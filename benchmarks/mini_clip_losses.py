"""What phase 1 of the mini CLIP's pretraining asks of the vision tower."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.mini_clip_captions import truth
from benchmarks.mini_clip_pictures import GRID, Pictures
from benchmarks.mini_clip_text import WIDTH, CaptionTable
from torch import Tensor, nn

TEMPERATURE = 0.07


def embed(visual: Any, image: Tensor) -> Tensor:
    """Return the tokens that enter the blocks, (batch, 1 + patches, width), class token first."""
    side = visual.conv1.kernel_size[0]
    patches = image.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    x = F.linear(patches.flatten(1, 2), visual.conv1.weight.flatten(1))  # a convolution without overlap
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    return visual.ln_pre(x)


def blocks(visual: Any, x: Tensor, with_vv: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return the tokens after the last block and, if wanted, the V-V stream's sum over all blocks."""
    side = x if with_vv else None
    for block in visual.transformer.resblocks:
        attn = block.attn
        qkv = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + attn.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        if side is not None:
            side = side + attn.out_proj(F.scaled_dot_product_attention(v, v, v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
    return x, side


def project(visual: Any, x: Tensor) -> Tensor:
    """Return unit-length features in the joint space."""
    return F.normalize(visual.ln_post(x) @ visual.proj, dim=-1)


def dense_loss(similarity: Tensor, patch: Tensor) -> Tensor:
    """Return 2 x binary cross-entropy (defective patches four times) + dice of patch logits, both (batch, patches)."""
    logits, known = similarity / TEMPERATURE, (patch >= 0).float()
    label = (patch == 1).float()
    weight = known * (1 + 3 * label)
    bce = (F.binary_cross_entropy_with_logits(logits, label, reduction="none") * weight).sum() / weight.sum()
    prob = logits.sigmoid() * known
    damaged = label.any(1)
    overlap, total = (prob * label).sum(1), prob.sum(1) + label.sum(1)
    dice = 1 - ((2 * overlap + 1) / (total + 1))[damaged]
    return 2 * bce + dice.mean()


def random_windows(pictures: Pictures, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the patches of one k x k window per picture and its label.

    Returns:
        Patch numbers (batch, k * k), and (batch,): 1 if the window touches a defect, 0 if it is clean, -1 if unclear.
    """
    k = int(rng.integers(2, 5))
    labels = pictures.patch.view(-1, GRID, GRID).numpy()
    index, label = [], []
    for grid in labels:
        y, x = rng.integers(0, GRID - k + 1, 2)
        damaged = np.argwhere(grid == 1)
        if len(damaged) and rng.random() < 0.6:
            y, x = np.clip(damaged[rng.integers(len(damaged))] - rng.integers(0, k, 2), 0, GRID - k)
        window = grid[y : y + k, x : x + k]
        label.append(1 if (window == 1).any() else -1 if (window == -1).any() else 0)
        index.append(((y + np.arange(k))[:, None] * GRID + x + np.arange(k)).ravel())
    return torch.from_numpy(np.stack(index)), torch.tensor(label)


class Scale(nn.Module):
    """Learnable scale and bias of the pairwise loss."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, similarity: Tensor) -> Tensor:
        """Return logits."""
        return self.log_scale.clamp(max=math.log(100)).exp() * similarity + self.bias


def vision_loss(
    visual: nn.Module, scale: Scale, pictures: Pictures, table: CaptionTable, rng: np.random.Generator, step: int
) -> dict[str, Tensor]:
    """Return the losses of one batch; see ``docs/mini_clip.md``."""
    pair = table.choose(pictures.facts, rng)
    extra = torch.from_numpy(rng.choice(table.neutral, 8, replace=False)) + 2 * table.pairs
    captions = torch.cat([pair, pair + table.pairs, extra])
    text, state = table.features[captions], pictures.facts[:, 1]
    step_text = table.features[pair + table.pairs] - table.features[pair]  # abnormal minus normal, (batch, dim)
    start = embed(visual, pictures.image)
    main, side = blocks(visual, start, with_vv=step % 2 == 0)
    tokens = project(visual, main)
    logits = scale(tokens[:, 0] @ text.T)
    fits = truth(table.facts[captions], pictures.facts)
    each = F.softplus(torch.where(fits, -logits, logits))
    difference = torch.einsum("bnd,bd->bn", tokens, step_text)
    sign = (2 * state - 1).float()
    losses = {
        "pairs": each[fits].mean() + each[~fits].mean(),
        "state": F.softplus(-sign * difference[:, 0] / TEMPERATURE).mean(),
        "dense": 2 * dense_loss(difference[:, 1:], pictures.patch),
    }
    if side is not None:
        vv = project(visual, side[:, 1:])
        losses["vv"] = 2 * dense_loss(torch.einsum("bnd,bd->bn", vv, step_text), pictures.patch)
    else:
        index, label = random_windows(pictures, rng)
        window = start[:, 1:].gather(1, index[..., None].expand(-1, -1, WIDTH))
        cls = project(visual, blocks(visual, torch.cat([start[:, :1], window], 1))[0][:, 0])
        loss = F.softplus(-(2 * label - 1) * (cls * step_text).sum(-1) / TEMPERATURE)
        losses["window"] = loss[label >= 0].mean()
    return losses
