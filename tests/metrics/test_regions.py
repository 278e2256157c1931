"""Regions against scikit-image's labelling of the whole mask."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import measure

from zsad.metrics import count_regions
from zsad.metrics.regions import find_regions


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), st.sampled_from([4, 8]))
@settings(max_examples=100, deadline=None)
def test_equals_scikit_image(mask: np.ndarray, connectivity: Any) -> None:
    labels, number = measure.label(mask, connectivity=connectivity // 4, return_num=True)
    found = find_regions(torch.from_numpy(mask), connectivity)
    assert found.number == number
    assert found.pixel.tolist() == np.flatnonzero(mask).tolist()
    assert found.area.tolist() == [int((labels == label).sum()) for label in labels[mask]]


def test_counts_over_a_batch() -> None:
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, 0, 0, 0] = masks[0, 0, 1, 1] = masks[1, 0, 3] = 1
    assert count_regions(masks) == 2
    assert count_regions(masks, 4) == 3
    with pytest.raises(ValueError, match=r"connectivity must be 8 .* got 5"):
        count_regions(masks, 5)  # type: ignore[arg-type]
