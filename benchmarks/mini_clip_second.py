"""What the second edition of the mini CLIP learns from: wider pictures, and every path that a method reads."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.mini_clip_captions import truth
from benchmarks.mini_clip_losses import TEMPERATURE, Scale, dense_loss, embed, project
from benchmarks.mini_clip_pictures import SIZE, WEIGHTS, Pictures, Pool
from benchmarks.mini_clip_text import WIDTH, CaptionTable
from numpy.typing import NDArray
from torch import Tensor

from zsad.synthetic import SEEN_CLASSES, SEEN_DEFECTS, TEXTURES, generate
from zsad.synthetic.generate import WIDER_CLASSES
from zsad.synthetic.wider import WIDER_TEXTURES
from zsad.synthetic.wider_defects import WIDER_DEFECTS

UNNAMED = -9
"""Number of a class or a defect that has no name: no caption names it."""

PATCH = 8
GRID = SIZE // PATCH

WINDOWS = 4
"""Windows per picture and step."""


class WiderPool(Pool):
    """Pictures of seen and of wider classes with seen and wider defects; a fifth of them are flawless twins.

    Args:
        size: Number of pictures kept.
        stream: Seeds count up from ``stream * 10**9``.
        fresh: Pictures drawn anew per batch.
        wider: Share of the wider classes, and of the wider defects.
    """

    def __init__(self, size: int, stream: int, fresh: int, wider: float = 0.3) -> None:
        self.wider = wider
        self.last: tuple[int, str] | None = None
        super().__init__(size, stream, fresh, first=size // 4, patch=PATCH)

    def _draw(self, place: int) -> None:
        rng = self.rng
        if self.last is not None and rng.random() < 0.3:  # the last defective picture without its defect
            (number, name), self.last, defect, damage = self.last, None, "", -1
            seed = self.next_seed - 1
        else:
            if rng.random() < self.wider:
                number, name = UNNAMED, WIDER_CLASSES[rng.integers(len(WIDER_CLASSES))]
            else:
                number = int(rng.choice(len(SEEN_CLASSES), p=WEIGHTS / WEIGHTS.sum()))
                name = SEEN_CLASSES[number]
            defect, damage = "", -1
            if rng.random() < 0.8:
                known = rng.random() > self.wider
                kinds = list(SEEN_DEFECTS if known else WIDER_DEFECTS)
                damage = int(rng.integers(len(kinds)))
                defect, damage = kinds[damage], damage if known else UNNAMED
                self.last = (number, name)
            seed = self.next_seed
            self.next_seed += 1
        sample = generate(name, defect, seed)
        self.store(place, sample, (number, bool(defect), damage, name in TEXTURES or name in WIDER_TEXTURES))


def choose(table: CaptionTable, facts: Tensor, rng: np.random.Generator) -> Tensor:
    """Return one caption pair per picture; what has no name gets a general word or an unknown one."""
    plain = facts.clone()
    plain[facts[:, 0] == UNNAMED, 0] = 0
    plain[facts[:, 2] == UNNAMED, 2] = -1
    chosen = table.choose(plain, rng)
    for row in (facts[:, 0] == UNNAMED).nonzero().flatten().tolist():
        kind = "unknown" if rng.random() < 0.5 else "texture" if facts[row, 3] and rng.random() < 0.4 else "general"
        group = table.groups[kind, ""]
        chosen[row] = group[rng.integers(len(group))]
    return chosen


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T) v, written out: the fused one takes ten times as long backwards in bfloat16 on a CPU."""
    with torch.autocast("cpu", enabled=False):  # which would take the softmax to float32
        return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v


def tower(visual: Any, x: Tensor, with_vv: bool = False) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Return the tokens after each block, the last value tokens, and if wanted the V-V stream's sum over all blocks."""
    side, values, ends = x if with_vv else None, x, []
    for block in visual.transformer.resblocks:
        attn = block.attn
        qkv = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        values = v
        x = x + attn.out_proj(attention(q, k, v).transpose(1, 2).flatten(2))
        if side is not None:
            side = side + attn.out_proj(attention(v, v, v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
        ends.append(x)
    last: Any = visual.transformer.resblocks[-1]
    return ends, last.attn.out_proj(values.transpose(1, 2).flatten(2)), side


def windows(pictures: Pictures, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the patches of :data:`WINDOWS` k x k windows per picture, k = 2, 3 or 4, and their labels.

    Returns:
        Patch numbers (batch, windows, k * k), and (batch, windows): 1 if the window touches a defect, 0 if it is clean,
        -1 if unclear.
    """
    k = int(rng.choice([2, 3, 4], p=[0.35, 0.4, 0.25]))
    labels: NDArray[np.int8] = pictures.patch.view(-1, GRID, GRID).numpy()
    corner = rng.integers(0, GRID - k + 1, (len(labels), WINDOWS, 2))
    for number, grid in enumerate(labels):
        damaged = np.argwhere(grid == 1)
        if len(damaged):
            chosen = damaged[rng.integers(len(damaged), size=WINDOWS // 2)]
            corner[number, : WINDOWS // 2] = np.clip(chosen - rng.integers(0, k, chosen.shape), 0, GRID - k)
    offset = np.arange(k)
    rows, columns = corner[..., 0, None] + offset, corner[..., 1, None] + offset
    index = (rows[..., :, None] * GRID + columns[..., None, :]).reshape(len(labels), WINDOWS, k * k)
    inside = np.take_along_axis(labels.reshape(len(labels), 1, -1), index, 2)
    label = np.where((inside == 1).any(2), 1, np.where((inside == -1).any(2), -1, 0))
    return torch.from_numpy(index), torch.from_numpy(label)


def second_loss(
    visual: Any, scale: Scale, pictures: Pictures, table: CaptionTable, rng: np.random.Generator, step: int
) -> dict[str, Tensor]:
    """Return the losses of one batch: those of the first edition, and what it left out.

    What it left out is the state of the tokens between the blocks, of value tokens, of the whole picture and of small
    windows, and the agreement of the last two. The tower computes in bfloat16, the losses in float32.
    """
    pair = choose(table, pictures.facts, rng)
    extra = torch.from_numpy(rng.choice(table.neutral, 8, replace=False)) + 2 * table.pairs
    captions = torch.cat([pair, pair + table.pairs, extra])
    text, state = table.features[captions], pictures.facts[:, 1]
    direction = table.features[pair + table.pairs] - table.features[pair]  # abnormal minus normal, (batch, dim)
    sign = (2 * state - 1).float()

    def margin(tokens: Tensor) -> Tensor:
        return torch.einsum("bnd,bd->bn", tokens, direction)

    with torch.autocast("cpu", torch.bfloat16):
        start = embed(visual, pictures.image)
        ends, values, side = tower(visual, start, with_vv=step % 2 == 0)
    tokens, values = project(visual, ends[-1].float()), project(visual, values.float())
    logits = scale(tokens[:, 0] @ text.T)
    fits = truth(table.facts[captions], pictures.facts)
    each = F.softplus(torch.where(fits, -logits, logits))
    losses = {
        "pairs": each[fits].mean() + each[~fits].mean(),
        "state": 2 * F.softplus(-sign * margin(tokens)[:, 0] / TEMPERATURE).mean(),
        "dense": 2 * dense_loss(margin(tokens[:, 1:]), pictures.patch),
        "values": dense_loss(margin(values[:, 1:]), pictures.patch),
    }
    if side is not None:
        losses["vv"] = 2 * dense_loss(margin(project(visual, side[:, 1:].float())), pictures.patch)
        middle = [dense_loss(margin(project(visual, x[:, 1:].float())), pictures.patch) for x in ends[1:-1]]
        losses["middle"] = torch.stack(middle).sum() / 2
        return losses
    index, label = windows(pictures, rng)
    flat = index.flatten(1)[..., None].expand(-1, -1, WIDTH)
    window = start[:, 1:].gather(1, flat).unflatten(1, index.shape[1:]).flatten(0, 1)
    first = start[:, None, :1].expand(-1, WINDOWS, -1, -1).flatten(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        out, inside, _ = tower(visual, torch.cat([first, window], 1))
    cls = project(visual, out[-1][:, 0].float()).unflatten(0, label.shape)
    known = label >= 0
    losses["window"] = 2 * F.softplus(-(2 * label - 1) * margin(cls) / TEMPERATURE)[known].mean()
    # ALFA's aligner carries the prompts from global to local value tokens: the two must agree where they mean the same
    local = project(visual, inside.float())
    labels = pictures.patch.gather(1, index.flatten(1))
    losses["local values"] = dense_loss(margin(local[:, 1:].unflatten(0, label.shape).flatten(1, 2)), labels)
    whole = torch.cat(
        [values[:, None, :1].expand(-1, WINDOWS, -1, -1).flatten(0, 1),
         values[:, 1:].gather(1, index.flatten(1)[..., None].expand(-1, -1, values.shape[-1]))
         .unflatten(1, index.shape[1:]).flatten(0, 1)], 1,
    )  # fmt: skip
    losses["agree"] = 2 * (1 - (local * whole).sum(-1)).mean()
    return losses


__all__ = ["PATCH", "WiderPool", "second_loss"]
