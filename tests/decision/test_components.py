"""Labelling in numpy alone is scikit-image's, and boxes are SciPy's."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label

from zsad.decision import regions
from zsad.decision.components import boxes, by_rows, components


@pytest.mark.parametrize("share", [0.0, 0.2, 0.45, 0.7, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (41, 57)])
def test_labels_without_scikit_image(size: tuple[int, int], share: float) -> None:
    for seed in range(5):
        mask = np.random.default_rng(seed).random(size) < share
        assert np.array_equal(by_rows(mask), label(mask, connectivity=2))


def test_a_spiral_is_one_part() -> None:
    mask = np.zeros((21, 21), dtype=bool)
    row, column, step = 0, 0, (0, 1)
    for length in (20, 20, 20, 18, 18, 16, 16, 14, 14, 12, 12):
        for _ in range(length):
            mask[row, column] = True
            row, column = row + step[0], column + step[1]
        step = (step[1], -step[0])
    assert np.array_equal(by_rows(mask), label(mask, connectivity=2))


def test_boxes_are_scipys() -> None:
    labels = components(np.random.default_rng(3).random((40, 30)) < 0.3)
    assert boxes(labels) == ndimage.find_objects(labels)
    assert boxes(np.zeros((3, 4), dtype=np.int64)) == []


def test_regions_without_scikit_image_have_boxes_and_no_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random((30, 40)).astype(np.float32)
    expected = regions(values, 0.8)
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    got = regions(values, 0.8)
    same = [(one.area, one.box, one.centroid, one.max, one.mean) for one in expected]
    assert [(one.area, one.box, one.centroid, one.max, one.mean) for one in got] == same
    assert all(one.rings == () for one in got)
