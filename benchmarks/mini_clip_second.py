"""What the second edition of the mini CLIP learns from: wider pictures, and every path that a method reads."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.mini_clip_captions import truth
from benchmarks.mini_clip_losses import TEMPERATURE, Scale, dense_loss, embed, project
from benchmarks.mini_clip_pictures import GRID, PATCH, SIZE, WEIGHTS, Pictures, Pool
from benchmarks.mini_clip_text import WIDTH, CaptionTable
from numpy.typing import NDArray
from torch import Tensor

from zsad.synthetic import SEEN_CLASSES, SEEN_DEFECTS, TEXTURES, generate
from zsad.synthetic.generate import WIDER_CLASSES
from zsad.synthetic.wider import WIDER_TEXTURES
from zsad.synthetic.wider_defects import WIDER_DEFECTS

UNNAMED = -9
"""Number of a class or a defect that has no name: no caption names it."""

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
        super().__init__(size, stream, fresh, first=12 * fresh + 300)

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
        share = sample.mask.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
        self.image[place] = sample.image
        self.patch[place] = np.where(share > 0.12, 1, np.where(share > 0, -1, 0))
        self.facts[place] = number, bool(defect), damage, name in TEXTURES or name in WIDER_TEXTURES


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


def tower(visual: Any, x: Tensor, with_vv: bool = False) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Return the tokens after each block, the last value tokens, and if wanted the V-V stream's sum over all blocks."""
    side, values, ends = x if with_vv else None, x, []
    for block in visual.transformer.resblocks:
        attn = block.attn
        qkv = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        values = v
        x = x + attn.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        if side is not None:
            side = side + attn.out_proj(F.scaled_dot_product_attention(v, v, v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
        ends.append(x)
    last: Any = visual.transformer.resblocks[-1]
    return ends, last.attn.out_proj(values.transpose(1, 2).flatten(2)), side


def windows(pictures: Pictures, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the patches of :data:`WINDOWS` k x k windows per picture, k = 2 or 3 (rarely 4), and their labels.

    Returns:
        Patch numbers (batch, windows, k * k), and (batch, windows): 1 if the window touches a defect, 0 if it is clean,
        -1 if unclear.
    """
    k = int(rng.choice([2, 3, 4], p=[0.4, 0.5, 0.1]))
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


def keep_loss(
    visual: Any, ends: list[Tensor], side: Tensor | None, first: tuple[Any, list[Tensor], Tensor | None]
) -> Tensor:
    """Return how far the paths that the first edition was trained for have turned from where they were.

    Args:
        visual: The tower that learns.
        ends: Its tokens after each block.
        side: Its V-V stream, if this step has one.
        first: The same three of the first edition.
    """
    teacher, before, side_before = first
    pairs = [(one[:, 1:], two[:, 1:]) for one, two in zip(ends, before, strict=True)]  # MuSc reads these
    pairs.append((visual.ln_post(ends[-1]) @ visual.proj, teacher.ln_post(before[-1]) @ teacher.proj))
    if side is not None and side_before is not None:
        pairs.append((visual.ln_post(side) @ visual.proj, teacher.ln_post(side_before) @ teacher.proj))
    return torch.stack([1 - F.cosine_similarity(one, two, dim=-1).mean() for one, two in pairs]).sum()


def second_loss(
    visual: Any,
    scale: Scale,
    pictures: Pictures,
    table: CaptionTable,
    rng: np.random.Generator,
    step: int,
    teacher: Any,
) -> dict[str, Tensor]:
    """Return the losses of one batch: those of the first edition, staying near its outputs, and what it left out.

    What it left out is the state of value tokens, of the whole picture and of small windows, and their agreement.
    """
    pair = choose(table, pictures.facts, rng)
    extra = torch.from_numpy(rng.choice(table.neutral, 8, replace=False)) + 2 * table.pairs
    captions = torch.cat([pair, pair + table.pairs, extra])
    text, state = table.features[captions], pictures.facts[:, 1]
    direction = table.features[pair + table.pairs] - table.features[pair]  # abnormal minus normal, (batch, dim)
    sign = (2 * state - 1).float()

    def margin(tokens: Tensor) -> Tensor:
        return torch.einsum("bnd,bd->bn", tokens, direction)

    start = embed(visual, pictures.image)
    ends, values, side = tower(visual, start, with_vv=step % 2 == 0)
    with torch.no_grad():
        before, _, side_before = tower(teacher, embed(teacher, pictures.image), with_vv=step % 2 == 0)
    tokens, values = project(visual, ends[-1]), project(visual, values)
    logits = scale(tokens[:, 0] @ text.T)
    each = F.softplus(torch.where(truth(table.facts[captions], pictures.facts), -logits, logits))
    fits = truth(table.facts[captions], pictures.facts)
    losses = {
        "pairs": (each[fits].mean() + each[~fits].mean()),
        "state": 2 * F.softplus(-sign * margin(tokens)[:, 0] / TEMPERATURE).mean(),
        "dense": 2 * dense_loss(margin(tokens[:, 1:]), pictures.patch),
        "values": dense_loss(margin(values[:, 1:]), pictures.patch),
        "keep": keep_loss(visual, ends, side, (teacher, before, side_before)),
    }
    if side is not None:
        losses["vv"] = 2 * dense_loss(margin(project(visual, side[:, 1:])), pictures.patch)
        return losses
    index, label = windows(pictures, rng)
    flat = index.flatten(1)[..., None].expand(-1, -1, WIDTH)
    window = start[:, 1:].gather(1, flat).unflatten(1, index.shape[1:]).flatten(0, 1)
    first = start[:, None, :1].expand(-1, WINDOWS, -1, -1).flatten(0, 1)
    out, local, _ = tower(visual, torch.cat([first, window], 1))
    cls = project(visual, out[-1][:, 0]).unflatten(0, label.shape)
    known = label >= 0
    losses["window"] = 2 * F.softplus(-(2 * label - 1) * margin(cls) / TEMPERATURE)[known].mean()
    # ALFA's aligner carries the prompts from global to local value tokens: the two must agree where they mean the same
    local = project(visual, local)
    labels = pictures.patch.gather(1, index.flatten(1))
    losses["local values"] = dense_loss(margin(local[:, 1:].unflatten(0, label.shape).flatten(1, 2)), labels)
    whole = torch.cat(
        [values[:, None, :1].expand(-1, WINDOWS, -1, -1).flatten(0, 1),
         values[:, 1:].gather(1, index.flatten(1)[..., None].expand(-1, -1, values.shape[-1]))
         .unflatten(1, index.shape[1:]).flatten(0, 1)], 1,
    )  # fmt: skip
    losses["agree"] = 2 * (1 - (local * whole).sum(-1)).mean()
    return losses


__all__ = ["SIZE", "WiderPool", "second_loss"]
