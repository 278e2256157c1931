"""Steps against hand-written formulas and against ordinary CLIP."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from zsad.clip import Clip
from zsad.clip.blocks import TwoPath, adapters, deep_prompts, merge_heads, plain, qkv, side_attention, two_path, value


@torch.no_grad()
def test_two_path_leaves_the_main_stream_alone(tiny: Clip, image: Tensor) -> None:
    embedded = tiny.embed_image(image)
    expected, _ = tiny.run_image(embedded)
    state, _ = tiny.run_image(embedded, two_path(2, ("vv", "qq", "kk")))
    assert isinstance(state, TwoPath)
    assert len(state.side) == 3
    torch.testing.assert_close(state.main, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("source", ["stream", "self"])
@torch.no_grad()
def test_a_narrow_block_computes_the_class_token_alone_and_changes_nothing_else(
    source: Literal["stream", "self"], tiny: Clip, image: Tensor
) -> None:
    embedded = tiny.embed_image(image)
    whole, _ = tiny.run_image(embedded, two_path(2, ("vv", "qq"), source))
    state, kept = tiny.run_image(embedded, two_path(2, ("vv", "qq"), source, narrow=tiny.depth), keep=(3,))
    torch.testing.assert_close(state.main, whole.main[:, :1], atol=2e-6, rtol=0)
    assert all(torch.equal(one, other) for one, other in zip(state.side, whole.side, strict=True))
    assert kept[3].main.shape == embedded.shape
    expected = tiny.encode_image(image, (tiny.depth,)).cls
    torch.testing.assert_close(tiny.encode_image(image).cls, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("kind", "row"), [("vv", 2), ("qq", 0), ("kk", 1)])
@torch.no_grad()
def test_side_attention_is_the_written_out_formula(kind: str, row: int, tiny: Clip, image: Tensor) -> None:
    block = tiny.model.visual.transformer.resblocks[0]
    x = block.ln_1(tiny.embed_image(image))
    got = side_attention(block, *qkv(block, x), kind)  # type: ignore[arg-type]
    heads, width = block.attn.num_heads, x.shape[-1]
    parts = []
    for head in range(heads):
        rows = slice(head * width // heads, (head + 1) * width // heads)
        q, k, v = (
            x @ w[rows].T + b[rows]
            for w, b in zip(block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True)
        )
        same = (q, k, v)[row]
        parts.append(torch.softmax(same @ same.transpose(1, 2) / (width // heads) ** 0.5, dim=-1) @ v)
    expected = torch.cat(parts, dim=-1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_values_without_attention_equal_the_value_path(tiny: Clip, image: Tensor) -> None:
    block = tiny.model.visual.transformer.resblocks[1]
    x = tiny.embed_image(image)
    q, k, v = qkv(block, block.ln_1(x))
    torch.testing.assert_close(side_attention(block, q, k, v, "v"), value(block, x), atol=1e-6, rtol=0)
    torch.testing.assert_close(merge_heads(block, v), value(block, x), atol=1e-6, rtol=0)


@torch.no_grad()
def test_side_stream_sums_attention_onto_its_starting_point(tiny: Clip, image: Tensor) -> None:
    embedded = tiny.embed_image(image)
    _, inputs = tiny.run_image(embedded, keep=(1, 2, 3))
    state, kept = tiny.run_image(embedded, two_path(3), keep=(2, 3))
    blocks = tiny.model.visual.transformer.resblocks
    third = side_attention(blocks[2], *qkv(blocks[2], blocks[2].ln_1(inputs[2])), "vv")
    fourth = side_attention(blocks[3], *qkv(blocks[3], blocks[3].ln_1(inputs[3])), "vv")
    assert torch.equal(kept[2], inputs[2])
    torch.testing.assert_close(kept[3].side[0], inputs[2] + third, atol=2e-6, rtol=0)
    torch.testing.assert_close(state.side[0], inputs[2] + third + fourth, atol=2e-6, rtol=0)


@torch.no_grad()
def test_side_stream_that_reads_itself_differs_after_its_first_block(tiny: Clip, image: Tensor) -> None:
    embedded = tiny.embed_image(image)
    _, stream = tiny.run_image(embedded, two_path(1), keep=(1, 4))
    _, itself = tiny.run_image(embedded, two_path(1, source="self"), keep=(1, 4))
    torch.testing.assert_close(stream[1].side[0], itself[1].side[0], atol=1e-6, rtol=0)
    assert (stream[4].side[0] - itself[4].side[0]).abs().max() > 1e-3


@torch.no_grad()
def test_deep_prompts_overwrite_and_do_not_lengthen(tiny: Clip) -> None:
    ids = tiny.tokenize(["X X X X object."])
    prompts = [torch.zeros(2, tiny.text_width)]
    plainly = tiny.encode_text(ids)
    assert torch.equal(tiny.encode_text(ids, deep_prompts([], tiny.causal_mask)), plainly)
    changed = tiny.encode_text(ids, deep_prompts(prompts, tiny.causal_mask))
    assert (changed - plainly).abs().max() > 1e-4
    # by hand: block 1, overwrite positions 1 and 2, block 2
    x = tiny.embed_text(ids) + tiny.model.positional_embedding
    first, second = tiny.model.transformer.resblocks
    x = first(x, attn_mask=tiny.causal_mask).clone()
    x[:, 1:3] = 0
    x = tiny.model.ln_final(second(x, attn_mask=tiny.causal_mask))[0, ids[0].argmax()]
    torch.testing.assert_close(changed[0], tiny.project_text(x), atol=1e-6, rtol=0)


@torch.no_grad()
def test_adapters_keep_the_norm_and_vanish_at_weight_zero(tiny: Clip, image: Tensor) -> None:
    modules = [nn.Linear(tiny.width, tiny.width, bias=False) for _ in range(2)]
    embedded = tiny.embed_image(image)
    expected, kept = tiny.run_image(embedded, keep=(1,))
    same, _ = tiny.run_image(embedded, adapters(modules, 0.0))
    torch.testing.assert_close(same, expected, atol=1e-6, rtol=0)
    _, full = tiny.run_image(embedded, adapters(modules, 1.0), keep=(1,))
    torch.testing.assert_close(full[1].norm(dim=-1), kept[1].norm(dim=-1), atol=1e-5, rtol=1e-5)
    direction = modules[0](kept[1])
    torch.testing.assert_close(
        full[1] / full[1].norm(dim=-1, keepdim=True),
        direction / direction.norm(dim=-1, keepdim=True),
        atol=1e-5,
        rtol=0,
    )


@torch.no_grad()
def test_plain_step_passes_the_mask(tiny: Clip) -> None:
    ids = tiny.tokenize(["a b c d"])
    causal = tiny.encode_text(ids)
    free = tiny.encode_text(ids, plain(None))
    assert (causal - free).abs().max() > 1e-4
