"""Tiny models for all tests: real open_clip architecture, random weights, milliseconds per image."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import open_clip
import pytest
import torch

from tests.served import home, other_server, published, secure_server, server  # noqa: F401 (fixtures of all tests)
from zsad.clip import Clip
from zsad.methods import Method
from zsad.methods.musc import Transductive


def make_clip(quick_gelu: bool = False, layers: int = 4, position: str = "bicubic", seed: int = 0) -> Clip:
    """A CLIP of ``layers`` blocks, 32-pixel images, 4 x 4 patches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(
            embed_dim=16,
            quick_gelu=quick_gelu,
            vision_cfg={"image_size": 32, "patch_size": 8, "width": 32, "layers": layers, "head_width": 8},
            text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
        )
        for parameter in model.parameters():  # open_clip's initial values make all texts nearly parallel
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return Clip(model, f"tiny-test-{seed}", position)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _own_cache(home: Path) -> None:  # noqa: F811
    """No test reads or writes the user's cache."""


def with_panels(method: Method, class_names: Iterable[str], size: int = 32) -> Method:
    """The method; if it is transductive, with a panel of 8 images for each class."""
    if isinstance(method, Transductive):
        for name in sorted(set(class_names)):
            images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
            method.fit_panel(name, images)
    return method


@pytest.fixture(scope="session")
def tiny() -> Clip:
    """One frozen backbone for the whole session."""
    return make_clip()


@pytest.fixture
def image() -> torch.Tensor:
    """Four normalised images of the tiny backbone's own size."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
