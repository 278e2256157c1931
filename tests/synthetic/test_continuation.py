"""The second edition's training: its pictures and its windows."""

import importlib
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zsad.clip import load_clip


@pytest.fixture(scope="module")
def second(captions: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.mini_clip_second")


def test_wider_pictures_have_no_name_and_twins_show_the_same_without_the_defect(second: ModuleType) -> None:
    pool = second.WiderPool(480, 3, 4)
    batch = pool.batch(64)
    assert batch.image.shape == (64, 3, 96, 96)
    named = pool.facts[: pool.filled]
    unnamed = named[:, 0] == second.UNNAMED
    assert 0.2 < unnamed.mean() < 0.7
    normal = named[:, 1] == 0
    assert (named[normal, 2] == -1).all()
    assert (pool.patch[: pool.filled][normal] == 0).all()
    assert (pool.patch[: pool.filled][~normal] != 0).any((1, 2)).all()


def test_windows_are_labelled_by_the_patches_inside(second: ModuleType) -> None:
    patch = torch.zeros(3, second.GRID**2, dtype=torch.int8)
    patch[0, 9] = 1
    patch[1, -1] = -1
    index, label = second.windows(second.Pictures(torch.empty(3), patch, torch.empty(3)), np.random.default_rng(0))
    for number in range(3):
        for place, expected in zip(index[number], label[number].tolist(), strict=True):
            inside = patch[number][place]
            rows, columns = place // second.GRID, place % second.GRID
            assert rows.max() - rows.min() == columns.max() - columns.min()
            assert expected == (1 if (inside == 1).any() else -1 if (inside == -1).any() else 0)
    assert (label[0] == 1).any()
    assert (label[2] == 0).all()


def test_the_written_out_attention_is_that_of_torch(second: ModuleType) -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(second.attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_smaller_patches_start_from_what_the_larger_ones_answered() -> None:
    """To a patch without detail the convolution answers nearly the same; places lie between their old neighbours."""
    continuation = importlib.import_module("benchmarks.continue_mini_clip")
    weights, _ = continuation.first_edition()
    first = load_clip("zsad-mini").model.state_dict()
    flat = torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    kernels = first["visual.conv1.weight"], weights["visual.conv1.weight"]
    was, now = (F.conv2d(flat.expand(1, 3, *kernel.shape[2:]), kernel).flatten() for kernel in kernels)
    assert weights["visual.conv1.weight"].shape[-1] < first["visual.conv1.weight"].shape[-1]
    assert F.cosine_similarity(now, was, dim=0) > 0.99
    places = weights["visual.positional_embedding"]
    assert places.shape == (1 + 12 * 12, 128)
    torch.testing.assert_close(places[1:].mean(0), first["visual.positional_embedding"][1:].mean(0), atol=0.03, rtol=0)
