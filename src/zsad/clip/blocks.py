"""One loop over open_clip's residual blocks, and the steps that the papers put into it.

A *step* says what one block does to the state that travels through the tower. The loop never patches a module, so one
model can serve several methods at once, and gradients and checkpoints are those of plain open_clip.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Any  # a Tensor for one stream, TwoPath for two
Step = Callable[[int, nn.Module, Any], Any]
"""(block number from 1, open_clip's block, state) -> state."""

SideAttention = Literal["vv", "qq", "kk", "v"]


class TwoPath(NamedTuple):
    """Two streams through one tower."""

    main: Tensor
    """(batch, tokens, width): the ordinary stream, untouched by the other; class token only after a narrow block."""
    side: tuple[Tensor, ...]
    """One (batch, tokens, width) accumulator per kind of side attention."""


def run(
    blocks: Iterable[nn.Module], state: State, step: Step, keep: Collection[int] = ()
) -> tuple[State, dict[int, State]]:
    """Return the state after the last block, and the states after the blocks whose numbers are in ``keep``."""
    kept: dict[int, State] = {}
    for number, block in enumerate(blocks, start=1):
        state = step(number, block, state)
        if number in keep:
            kept[number] = state
    return state, kept


def full(x: Tensor) -> Tensor:
    """Return half precision as float32, everything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def learned(module: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what learned layers, whose parameters are float32, make of tokens: products are in the blocks' precision.

    Args:
        module: Linear layers, (..., width) -> (..., outputs).
        x: Tokens, (batch, tokens, width).
        dtype: Of the blocks; in half precision the result is too.
    """
    if dtype not in (torch.bfloat16, torch.float16):  # what autocast does is autocast's business
        return cast(Tensor, module(x))
    with torch.autocast(x.device.type, dtype):
        return cast(Tensor, module(x))


def plain(mask: Tensor | None = None, narrow: int = 0) -> Step:
    """Return the step of ordinary CLIP.

    Args:
        mask: Added to the attention logits, (tokens, tokens); text tower.
        narrow: Number of the block after which the class token alone is read: no other is computed there.
    """

    def step(number: int, block: nn.Module, x: Tensor) -> Tensor:
        return whole(block, x, mask, 1 if number == narrow else None)

    return step


def qkv(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of normalised tokens ``x``, each (batch, heads, tokens, head width)."""
    attn: Any = block.attn
    packed = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).unflatten(-1, (3, attn.num_heads, -1))
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    return q, k, v


def merge_heads(block: nn.Module, x: Tensor) -> Tensor:
    """Return the block's output projection of (batch, heads, tokens, head width) as (batch, tokens, width)."""
    attn: Any = block.attn
    return attn.out_proj(x.transpose(1, 2).flatten(2))


def after_attention(block: Any, x: Tensor, out: Tensor) -> Tensor:
    """Return what a block makes of its input ``x`` and its attention's output ``out``, both (batch, tokens, width)."""
    x = x + block.ls_1(out)
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def whole(block: Any, x: Tensor, mask: Tensor | None = None, first: int | None = None) -> Tensor:
    """Return the output of a whole block, (batch, tokens, width), or of its first tokens only.

    open_clip's own call ends in an attention module with an inference path of its own, which is several times slower
    in half precision on a CPU.

    Args:
        block: open_clip's residual block.
        x: Tokens, (batch, tokens, width).
        mask: Added to the attention logits, (tokens, tokens).
        first: How many tokens are wanted; they attend to all. None stands for all.
    """
    q, k, v = qkv(block, block.ln_1(x))
    mask = None if mask is None else mask[:first].to(q.dtype)
    out = F.scaled_dot_product_attention(q[:, :, :first], k, v, attn_mask=mask)
    return after_attention(block, x[:, :first], merge_heads(block, out))


def side_attention(block: nn.Module, q: Tensor, k: Tensor, v: Tensor, kind: SideAttention) -> Tensor:
    """Return self-correlation attention: ``kind`` names what plays query and key; ``"v"`` mixes no tokens at all."""
    if kind == "v":
        return merge_heads(block, v)
    same = {"vv": v, "qq": q, "kk": k}[kind]
    return merge_heads(block, F.scaled_dot_product_attention(same, same, v))


def value(block: Any, x: Tensor) -> Tensor:
    """Return the value path of one block: no query, no key, tokens not mixed (MaskCLIP; ALFA).

    Args:
        block: open_clip's residual block.
        x: Tokens that enter the block, (batch, tokens, width), before ``ln_1``.
    """
    width = x.shape[-1]
    x = block.ln_1(x.to(block.ln_1.weight.dtype))
    v = F.linear(x, block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :])
    return full(block.attn.out_proj(v))


def two_path(
    first: int,
    kinds: Sequence[SideAttention] = ("vv",),
    source: Literal["stream", "self"] = "stream",
    narrow: int = 0,
) -> Step:
    """Return the step that sums side attention beside the ordinary stream from block ``first`` on.

    The side stream starts as the input of block ``first`` and receives the attention output only: no MLP, no second
    LayerNorm, no LayerScale. Both streams share one query-key-value projection where they have the same input.
    Sources: AnomalyCLIP section 3 (DPAM), AnoVL section 3.1 (V-V attention).

    Args:
        first: Number of the first block with a side path, from 1.
        kinds: One accumulator per kind.
        source: Where queries, keys and values come from: the ordinary stream, as both released codes do, or the side
            stream itself, as AnoVL's equation 7 is printed.
        narrow: Number of the block after which only the class token is read of the ordinary stream: it alone is
            computed there.
    """

    def step(number: int, block: Any, state: Any) -> Tensor | TwoPath:
        if number < first:
            return whole(block, state)
        main, side = state if isinstance(state, TwoPath) else (state, (state,) * len(kinds))
        q, k, v = qkv(block, block.ln_1(main))
        if source == "stream":
            side = tuple(a + side_attention(block, q, k, v, kind) for a, kind in zip(side, kinds, strict=True))
        else:
            side = tuple(
                a + side_attention(block, *qkv(block, block.ln_1(a)), kind) for a, kind in zip(side, kinds, strict=True)
            )
        wanted = 1 if number == narrow else None
        out = merge_heads(block, F.scaled_dot_product_attention(q[:, :, :wanted], k, v))
        return TwoPath(after_attention(block, main[:, :wanted], out), side)

    return step


def deep_prompts(prompts: Sequence[Tensor], mask: Tensor | None) -> Step:
    """Return the step that overwrites tokens 1..m before block 2 with ``prompts[0]``, block 3 with ``prompts[1]``, ...

    Args:
        prompts: Learnable tokens, each (m, width), or (rows, m, width) for a text tower that depends on the image
            (AdaCLIP); they replace, never lengthen, the sequence (AnomalyCLIP section 3).
        mask: Causal mask of the text tower.
    """

    def step(number: int, block: nn.Module, x: Tensor) -> Tensor:
        if 2 <= number <= len(prompts) + 1:
            new = prompts[number - 2].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], new.to(x.dtype), x[:, 1 + new.shape[1] :]], dim=1)
        return whole(block, x, mask)

    return step


def append_prompts(prompts: Sequence[Tensor]) -> Step:
    """Return the step that puts tokens at the end before block 1, and others in their place before blocks 2, 3, ...

    After the last of them the tokens stay in the sequence as they are. They have no position, so that their place does
    not matter. Source: AdaCLIP, image tower.

    Args:
        prompts: Tokens before block 1, before block 2 and so on, each (m, width) or (batch, m, width); all of one m.
    """

    def step(number: int, block: nn.Module, x: Tensor) -> Tensor:
        if number <= len(prompts):
            new = prompts[number - 1].to(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([x if number == 1 else x[:, : -new.shape[1]], new], dim=1)
        return whole(block, x)

    return step


def adapters(modules: Sequence[nn.Module], weight: float, mask: Tensor | None = None) -> Step:
    """Return the step that blends a norm-preserving adapter into the output of the first blocks (AA-CLIP section 3.2).

    Args:
        modules: One module (width -> width) per block, from block 1 on.
        weight: Share of the adapter, 0.1 in the paper.
        mask: Causal mask of the text tower, None for images.
    """

    def step(number: int, block: nn.Module, x: Tensor) -> Tensor:
        x = whole(block, x, mask)
        if number > len(modules):
            return x
        wide = full(x)
        new = full(learned(modules[number - 1], x, x.dtype))
        scale = wide.norm(dim=-1, keepdim=True) / new.norm(dim=-1, keepdim=True)
        return (weight * new * scale + (1 - weight) * wide).to(x.dtype)

    return step


def vv_tower(first: int, axis: Literal["token", "batch"] = "token") -> Step:
    """Return the step that runs a second tower with V-V attention beside the ordinary one, from block ``first`` on.

    Unlike :func:`two_path`, the side stream feeds on itself, and MLPs and both LayerNorms stay: it is what the tower
    would be with its attention replaced. Where no block is replaced the state stays a single tensor.
    Source: AA-CLIP, stage 1.

    Args:
        first: Number of the first replaced block, from 1.
        axis: What a token attends to: ``"token"``, the tokens of its image, or ``"batch"``, as in the released code of
            AA-CLIP, the tokens at its position in the other images.
    """

    def step(number: int, block: Any, state: Any) -> Tensor | TwoPath:
        if number < first:
            return whole(block, state)
        main, (side,) = state if isinstance(state, TwoPath) else (state, (state,))
        x = side.transpose(0, 1) if axis == "batch" else side
        v = qkv(block, block.ln_1(x))[2]
        x = after_attention(block, x, merge_heads(block, F.scaled_dot_product_attention(v, v, v)))
        return TwoPath(whole(block, main), (x.transpose(0, 1) if axis == "batch" else x,))

    return step
