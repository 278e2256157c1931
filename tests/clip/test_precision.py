"""Half precision inside the blocks, float32 around them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import make_clip
from zsad.clip import Clip
from zsad.clip.blocks import TwoPath, adapters, append_prompts, deep_prompts, two_path, value, vv_tower


@pytest.fixture(scope="module")
def rounded() -> Clip:
    return make_clip().cast("bf16")


def test_only_the_blocks_are_rounded(rounded: Clip, tiny: Clip) -> None:
    for name, parameter in rounded.model.named_parameters():
        wanted = torch.bfloat16 if ".resblocks." in f".{name}" else torch.float32
        assert parameter.dtype == wanted, name
    assert tiny.precision == "32"
    assert {parameter.dtype for parameter in tiny.parameters()} == {torch.float32}


def test_results_are_float32_and_near_those_of_float32(rounded: Clip, tiny: Clip, image: Tensor) -> None:
    layers = tuple(range(1, tiny.depth + 1))
    got, expected = rounded.encode_image(image, layers), tiny.encode_image(image, layers)
    texts = ["a photo of a cat", "a damaged metal nut"]
    pairs = [(got.cls, expected.cls), (rounded.encode_prompts(texts), tiny.encode_prompts(texts))]
    pairs += [(got.patches[layer], expected.patches[layer]) for layer in layers]
    for one, other in pairs:
        assert one.dtype == torch.float32
        similar = torch.cosine_similarity(one, other, dim=-1)
        assert similar.min() > 0.995  # 8 significant bits, 4 blocks
        assert not torch.equal(one, other)


def test_every_step_runs_in_half_precision(rounded: Clip, tiny: Clip, image: Tensor) -> None:
    x = tiny.embed_image(image)
    prompts = [torch.randn(2, tiny.width) for _ in range(2)]
    steps = {
        "two_path": two_path(2, ("vv", "qq", "kk", "v")),
        "two_path, own": two_path(2, source="self"),
        "deep_prompts": deep_prompts(prompts, None),
        "append_prompts": append_prompts(prompts),
        "adapters": adapters([nn.Linear(tiny.width, tiny.width)], 0.1),
        "vv_tower": vv_tower(2),
        "vv_tower, batch": vv_tower(2, "batch"),
    }
    for name, step in steps.items():
        with torch.no_grad():
            got, expected = (clip.run_image(x, step)[0] for clip in (rounded, tiny))
        for one, other in zip(_tensors(got), _tensors(expected), strict=True):
            assert one.dtype == torch.float32, name
            assert torch.cosine_similarity(one, other, dim=-1).min() > 0.99, name


def test_the_value_path_is_float32_outside(rounded: Clip, image: Tensor) -> None:
    block = rounded.model.visual.transformer.resblocks[-1]
    assert value(block, rounded.embed_image(image)).dtype == torch.float32


def test_gradients_pass_through_rounded_blocks(rounded: Clip, image: Tensor) -> None:
    prompts = [torch.randn(2, rounded.width, requires_grad=True)]
    state, _ = rounded.run_image(rounded.embed_image(image), deep_prompts(prompts, None))
    state.sum().backward()
    assert prompts[0].grad is not None
    assert torch.isfinite(prompts[0].grad).all()
    assert prompts[0].grad.dtype == torch.float32


def test_rounding_is_not_undone(rounded: Clip) -> None:
    assert copy.deepcopy(rounded).precision == "bf16"
    assert rounded.cast("bf16") is rounded
    with pytest.raises(ValueError, match="was rounded to bf16: load it again for '32'"):
        rounded.cast("32")
    with pytest.raises(ValueError, match="precision must be one of"):
        make_clip().cast("8")  # type: ignore[arg-type]


def _tensors(state: Tensor | TwoPath) -> list[Tensor]:
    return [state.main, *state.side] if isinstance(state, TwoPath) else [state]
