"""The second edition's training: its pictures and its windows."""

import importlib
from types import ModuleType

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def second(captions: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.mini_clip_second")


def test_wider_pictures_have_no_name_and_twins_show_the_same_without_the_defect(second: ModuleType) -> None:
    pool = second.WiderPool(120, 3, 4)
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
    patch = torch.zeros(3, 64, dtype=torch.int8)
    patch[0, 9] = 1
    patch[1, 63] = -1
    index, label = second.windows(second.Pictures(torch.empty(3), patch, torch.empty(3)), np.random.default_rng(0))
    for number in range(3):
        for place, expected in zip(index[number], label[number].tolist(), strict=True):
            inside = patch[number][place]
            rows, columns = place // 8, place % 8
            assert rows.max() - rows.min() == columns.max() - columns.min()
            assert expected == (1 if (inside == 1).any() else -1 if (inside == -1).any() else 0)
    assert (label[0] == 1).any()
    assert (label[2] == 0).all()
