"""The wrapper against open_clip's own forward passes, and its promises."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from torch import Tensor

from tests.conftest import make_clip
from zsad.clip import Clip, UnsupportedModelError
from zsad.clip.tensor_store import tensor_key, tower_key


@pytest.mark.parametrize("quick_gelu", [False, True])
@torch.no_grad()
def test_tokens_equal_encode_image(quick_gelu: bool, image: Tensor) -> None:
    clip = make_clip(quick_gelu)
    torch.testing.assert_close(clip.encode_image(image).cls, clip.model.encode_image(image), atol=1e-5, rtol=0)


@torch.no_grad()
def test_text_equals_encode_text(tiny: Clip) -> None:
    texts = ["a photo of a cat", "x", "a long sentence about a damaged metal nut without any flaw."]
    expected = tiny.model.encode_text(tiny.tokenize(texts))
    torch.testing.assert_close(tiny.encode_text(tiny.tokenize(texts)), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiny.encode_prompts(texts), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_prompts_do_not_depend_on_their_company(tiny: Clip) -> None:
    texts = ["one", "two words", "one", "a much longer prompt of many words and then some more"]
    together = tiny.encode_prompts(texts, chunk=2)
    assert torch.equal(together[0], together[2])
    for text, row in zip(texts, together, strict=True):
        torch.testing.assert_close(tiny.encode_prompts([text])[0], row, atol=2e-6, rtol=0)


@torch.no_grad()
def test_patches_of_every_layer_equal_open_clip_intermediates(tiny: Clip, image: Tensor) -> None:
    layers = tuple(range(1, tiny.depth + 1))
    expected = tiny.model.visual.forward_intermediates(image, indices=list(range(tiny.depth)), output_fmt="NLC")
    tokens = tiny.encode_image(image, layers)
    for number, raw in zip(layers, expected["image_intermediates"], strict=True):
        torch.testing.assert_close(tokens.patches[number], tiny.project(tiny.ln_post(raw)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_bicubic_position_table_is_what_open_clip_does_on_loading(tiny: Clip) -> None:
    state = {key: value.clone() for key, value in tiny.model.state_dict().items()}
    larger = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 48, "patch_size": 8, "width": 32, "layers": 4, "head_width": 8},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
    ).eval()
    resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    big = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(tiny.encode_image(big).cls, larger.encode_image(big), atol=1e-5, rtol=0)


@torch.no_grad()
def test_bilinear_position_table_of_a_linear_ramp_is_a_linear_ramp() -> None:
    clip = make_clip(position="bilinear")
    ramp = torch.arange(4.0).repeat_interleave(4)[:, None].expand(16, 32)  # rises by one per row of patches
    clip.model.visual.positional_embedding.data[1:] = ramp
    table = clip.position_table((8, 4))[1:].view(8, 4, 32)
    centres = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(table[:, 0, 0].numpy(), centres, atol=1e-6)


@pytest.mark.parametrize("grid", [(6, 6), (3, 7), (9, 2)])
@torch.no_grad()
def test_plain_bicubic_position_table_is_cubic_convolution_without_antialiasing(grid: tuple[int, int]) -> None:
    clip = make_clip(position="bicubic_plain")
    native = clip.model.visual.positional_embedding
    rows, columns = (_cubic_weights(4, size) for size in grid)
    expected = np.einsum("ya,xb,abc->yxc", rows, columns, native[1:].double().numpy().reshape(4, 4, 32))
    table = clip.position_table(grid)
    np.testing.assert_allclose(table[1:].view(*grid, 32).numpy(), expected, atol=1e-5)
    assert torch.equal(table[0], native[0])
    assert (table - make_clip().position_table(grid)).abs().max() > 1e-2  # also where the table is enlarged


def _cubic_weights(size: int, new: int) -> np.ndarray:
    """Keys' kernel with a = -0.75 at half-pixel centres, the edge repeated, whatever the scale: (new, size)."""
    weights = np.zeros((new, size))
    for i in range(new):
        centre = (i + 0.5) * size / new - 0.5
        first = int(np.floor(centre))
        for tap in range(first - 1, first + 3):
            x, a = abs(centre - tap), -0.75
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[i, min(max(tap, 0), size - 1)] += near if x <= 1 else far
    return weights


@torch.no_grad()
def test_image_sizes_do_not_influence_each_other(image: Tensor) -> None:
    clip = make_clip()
    weights = {key: value.clone() for key, value in clip.state_dict().items()}
    before = clip.encode_image(image).cls
    clip.encode_image(torch.randn(1, 3, 64, 40))
    assert torch.equal(clip.encode_image(image).cls, before)
    assert all(torch.equal(weights[key], value) for key, value in clip.state_dict().items())


def test_position_cache_follows_weights_and_dtype() -> None:
    clip = make_clip()
    first = clip.position_table((6, 6))
    clip.load_state_dict({**clip.state_dict(), "model.visual.positional_embedding": torch.ones(17, 32)})
    assert not torch.equal(clip.position_table((6, 6)), first)
    assert clip.double().position_table((6, 6)).dtype == torch.float64


def test_table_made_in_inference_mode_can_be_trained_through(image: Tensor) -> None:
    clip = make_clip()
    big = F.interpolate(image, size=(48, 48))
    with torch.inference_mode():
        clip.encode_image(big)
    big = big.clone().requires_grad_()
    clip.encode_image(big).cls.sum().backward()
    assert big.grad is not None
    assert big.grad.abs().sum() > 0


def test_weights_are_hashed_once_as_long_as_they_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = [0]

    def counted(tensor: Tensor) -> str:
        hashed[0] += 1
        return tensor_key(tensor)

    clip, other = make_clip(), make_clip(seed=1)
    monkeypatch.setattr("zsad.clip.tensor_store.tensor_key", counted)

    def key() -> tuple[str, int]:
        hashed[0] = 0
        found, number = clip.weights_key(), hashed[0]
        assert found == tower_key(clip.model, {})  # of which nothing is known
        return found, number

    first, number = key()
    assert number == len(clip.model.state_dict())
    assert key() == (first, 0)
    with torch.no_grad():
        clip.model.ln_final.weight[0] += 1
    second, number = key()
    assert (number, second != first) == (1, True)
    clip.load_state_dict(other.state_dict())
    third, _ = key()
    assert third == other.weights_key()
    clip.cast("bf16")
    assert key()[0] not in (first, second, third)


def test_frozen_in_every_mode() -> None:
    clip = make_clip()
    clip.train()
    assert not clip.training
    assert not any(module.training for module in clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())


def test_wrong_image_size_names_the_patch_size(tiny: Clip) -> None:
    with pytest.raises(ValueError, match=r"33 x 32 is not a multiple of the patch size 8.*for example 32"):
        tiny.encode_image(torch.zeros(1, 3, 33, 32))


def test_unknown_layer_names_the_range(tiny: Clip, image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"has image blocks 1 to 4, got layers \[5\]"):
        tiny.encode_image(image, layers=(5,))


def test_unknown_position_is_refused(tiny: Clip) -> None:
    with pytest.raises(ValueError, match="position must be 'bicubic', 'bicubic_plain' or 'bilinear', got 'nearest'"):
        Clip(tiny.model, position="nearest")  # type: ignore[arg-type]


TEXT = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 4, "layers": 1}
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 8}


@pytest.mark.parametrize(
    ("vision", "text", "reason"),
    [
        ({"pool_type": "avg"}, {}, "pools by 'avg', not by the class token"),
        ({"attentional_pool": True, "attn_pooler_heads": 4}, {}, "pools by attention"),
        ({"final_ln_after_pool": True}, {}, "normalises after pooling"),
        ({"block_type": "custom"}, {}, "blocks are not plain"),
        ({"layers": [1, 1, 1, 1], "patch_size": None}, {}, "no plain Vision Transformer"),
        ({}, {"pool_type": "first"}, "text tower pools by 'first'"),
        ({}, {"no_causal_mask": True}, "no causal mask"),
    ],
)
def test_other_towers_are_refused_with_the_reason(
    vision: dict[str, object], text: dict[str, object], reason: str
) -> None:
    model = open_clip.CLIP(embed_dim=16, vision_cfg={**VISION, **vision}, text_cfg={**TEXT, **text})
    with pytest.raises(UnsupportedModelError, match=reason):
        Clip(model, "odd")


def test_separate_text_module_is_refused() -> None:
    model = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)
    with pytest.raises(
        UnsupportedModelError, match="Model 'odd' is not supported: its text tower is a module of its own"
    ):
        Clip(model, "odd")
