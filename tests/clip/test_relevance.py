"""Relevance against the rule written out, under every mode in which it is called, and its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.conftest import make_clip
from zsad.clip import Clip
from zsad.clip.relevance import margin_target, relevance, text_target


@pytest.fixture
def text(tiny: Clip) -> Tensor:
    """A text vector per image."""
    return torch.randn(4, tiny.dim, generator=torch.Generator().manual_seed(2))


def by_the_rule(clip: Clip, image: Tensor, text: Tensor, first: int) -> Tensor:
    """The paper's recursion, R = R + C R from the first block up, one image at a time, with attention written out."""
    rows = []
    for one, vector in zip(image, text, strict=True):
        x, kept = clip.embed_image(one[None]), []
        for number, block in enumerate(clip.model.visual.transformer.resblocks, start=1):
            heads = block.attn.num_heads
            weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
            q, k, v = (
                part.unflatten(-1, (heads, -1)).transpose(1, 2)
                for part in F.linear(block.ln_1(x), weight, bias).chunk(3, dim=-1)
            )
            attention = torch.einsum("bhqd,bhkd->bhqk", q, k).div(q.shape[-1] ** 0.5).softmax(-1).requires_grad_()
            if number >= first:
                kept.append(attention)
            x = x + block.attn.out_proj(torch.einsum("bhqk,bhkd->bhqd", attention, v).transpose(1, 2).flatten(2))
            x = x + block.mlp(block.ln_2(x))
        feature = clip.model.visual.ln_post(x[:, 0]) @ clip.model.visual.proj
        scalar = clip.model.logit_scale.exp() * F.cosine_similarity(feature, vector[None])
        total = torch.eye(x.shape[1])
        for attention, gradient in zip(kept, torch.autograd.grad(scalar.sum(), kept), strict=True):
            total = total + (attention * gradient)[0].clamp(min=0).mean(0).detach() @ total
        rows.append(total[0, 1:])
    return torch.stack(rows)


@pytest.mark.parametrize("first", [1, 3, 4])
def test_it_is_the_papers_recursion(tiny: Clip, image: Tensor, text: Tensor, first: int) -> None:
    got = relevance(tiny, image, text_target(text, tiny.logit_scale), first)
    expected = by_the_rule(tiny, image, text, first)
    assert expected.max() > 1e-3
    torch.testing.assert_close(got.patches, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(got.embedding, tiny.encode_image(image).cls, atol=1e-5, rtol=0)


def test_the_last_block_is_the_default_and_images_do_not_meet(tiny: Clip, image: Tensor, text: Tensor) -> None:
    together = relevance(tiny, image, text_target(text, 10.0))
    assert torch.equal(relevance(tiny, image, text_target(text, 10.0), tiny.depth).patches, together.patches)
    for row in range(4):
        alone = relevance(tiny, image[row : row + 1], text_target(text[row : row + 1], 10.0))
        torch.testing.assert_close(alone.patches[0], together.patches[row], atol=1e-7, rtol=1e-4)
        torch.testing.assert_close(alone.scalar[0], together.scalar[row], atol=1e-5, rtol=0)


def test_it_works_under_inference_mode_no_grad_and_autocast(tiny: Clip, image: Tensor, text: Tensor) -> None:
    expected = relevance(tiny, image, text_target(text, tiny.logit_scale), 1).patches
    for mode in (torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            made_here = text + 0
            got = relevance(tiny, image + 0, text_target(made_here, tiny.logit_scale), 1).patches
        assert torch.equal(got, expected)
        assert not got.requires_grad
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in tiny.parameters())


def test_the_margin_is_the_difference_of_two_texts(tiny: Clip, image: Tensor, text: Tensor) -> None:
    pair = torch.stack([text.roll(1, 0), text], dim=1)
    got = relevance(tiny, image, margin_target(pair, 0.07), 2)
    cosines = F.cosine_similarity(tiny.encode_image(image).cls[:, None], pair, dim=-1)
    torch.testing.assert_close(got.scalar, (cosines[:, 1] - cosines[:, 0]) / 0.07, atol=1e-4, rtol=0)
    same = relevance(tiny, image, margin_target(pair[:, :1].expand(-1, 2, -1), 0.07), 2)
    assert same.patches.abs().max() < 1e-6 < got.patches.max()  # nothing speaks for a text against itself


def test_a_head_of_its_own(tiny: Clip, image: Tensor) -> None:
    got = relevance(tiny, image, lambda feature: feature[:, 0], head=lambda cls: cls[:, 3:])
    last = tiny.run_image(tiny.embed_image(image))[0][:, 0]
    torch.testing.assert_close(got.scalar, last[:, 3], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("target", "first", "message"),
    [
        (lambda feature: feature[:, 0], 5, r"first_block must lie in 1\.\.4 for 'tiny-test-0', got 5"),
        (lambda feature: feature[:, 0], 0, r"first_block must lie in 1\.\.4 .*got 0"),
        (lambda feature: feature, None, r"must give one number per image, got shape \(4, 16\)"),
        (lambda feature: feature[:, 0].detach(), None, "'<lambda>' does not depend on the class token"),
    ],
)
def test_errors(tiny: Clip, image: Tensor, target: Any, first: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        relevance(tiny, image, target, first)


def test_rounded_blocks_find_the_same_patches(image: Tensor, text: Tensor) -> None:
    exact, rounded = make_clip(), make_clip().cast("bf16")
    got, expected = (relevance(clip, image, text_target(text, 10.0), 1).patches for clip in (rounded, exact))
    assert got.dtype == torch.float32
    assert torch.cosine_similarity(got, expected, dim=-1).min() > 0.98
