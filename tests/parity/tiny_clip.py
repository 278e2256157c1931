"""Tiny CLIPs whose weights are a formula of (parameter name, seed); fixtures store no weights."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor

from zsad.clip import Clip

_TEXT: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 12}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-L": {
        "embed_dim": 64,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 112, "patch_size": 14, "width": 128, "layers": 24, "head_width": 64},
        "text_cfg": _TEXT,
    },
    "tiny-B": {
        "embed_dim": 64,
        "quick_gelu": False,
        "vision_cfg": {"image_size": 96, "patch_size": 16, "width": 128, "layers": 12, "head_width": 64},
        "text_cfg": _TEXT,
    },
}


def weight(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The value of a parameter: a scale that depends on its role, times normal noise from NumPy's frozen stream."""
    stream = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    noise = stream.standard_normal(shape).astype(np.float32)
    leaf = name.rsplit(".", 1)[-1]
    is_norm = name.startswith("ln_") or ".ln_" in name
    if name == "logit_scale":
        result = np.full(shape, np.log(1 / 0.07))
    elif is_norm and leaf == "weight":
        result = 1 + 0.1 * noise
    elif leaf.endswith("bias"):
        result = 0.05 * noise
    elif name in {
        "token_embedding.weight",
        "positional_embedding",
        "visual.class_embedding",
        "visual.positional_embedding",
    }:
        result = 0.3 * noise
    elif name in {"visual.proj", "text_projection"}:
        result = noise * shape[0] ** -0.5
    else:
        result = noise * int(np.prod(shape[1:])) ** -0.5
    return torch.from_numpy(np.asarray(result, dtype=np.float32))


def build(config: str, seed: int, quick_gelu: bool | None = None) -> open_clip.CLIP:
    """The model in eval mode and float32; ``quick_gelu`` replaces the configuration's activation."""
    if config not in CONFIGS:
        raise ValueError(f"Unknown tiny CLIP '{config}', known: {sorted(CONFIGS)}.")
    shape = dict(CONFIGS[config])
    if quick_gelu is not None:
        shape["quick_gelu"] = quick_gelu
    model = open_clip.CLIP(**shape).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, tuple(parameter.shape), seed))
    return model


_built: dict[tuple[Any, ...], Clip] = {}


def clip(config: str, seed: int, position: str | None = None, activation: str | None = None) -> Clip:
    """The model in the library's wrapper; built once per process, since it is frozen."""
    key = (config, seed, position, activation)
    if key not in _built:
        model = build(config, seed, None if activation is None else activation == "quick_gelu")
        _built[key] = Clip(model, f"{config}-{seed}", position or "bicubic")  # type: ignore[arg-type]
    return _built[key]


def image(batch: int, size: int | list[int], seed: int) -> Tensor:
    """A float32 batch as it enters the image tower, already normalised; ``size`` is a side or [height, width]."""
    height, width = (size, size) if isinstance(size, int) else size
    stream = np.random.RandomState(seed)
    return torch.from_numpy(stream.standard_normal((batch, 3, height, width)).astype(np.float32))
