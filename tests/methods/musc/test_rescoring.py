"""Re-scoring by images that look alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.methods.musc.rescoring import rescore


def images(number: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores, and features that are all rather alike."""
    random = torch.Generator().manual_seed(seed)
    features = F.normalize(1 + torch.randn(number, 8, generator=random), dim=-1)
    return torch.rand(number, generator=random), features


def by_definition(scores: Tensor, features: Tensor, windows: tuple[int, ...]) -> np.ndarray:
    """A matrix of weights per window, rows summing to one."""
    s, f = scores.double().numpy(), features.double().numpy()
    means = []
    for window in windows:
        weights = f @ f.T
        for row in weights:
            row[np.argsort(-row)[window:]] = 0
        means.append(weights / weights.sum(axis=1, keepdims=True) @ s)
    return np.mean(means, axis=0)


@pytest.mark.parametrize("windows", [(1,), (1, 2, 3), (2, 3), (1, 8, 9), (1, 100)])
def test_weighted_means_over_the_most_similar_images(windows: tuple[int, ...]) -> None:
    scores, features = images()
    capped = tuple(min(window, 9) for window in windows)
    np.testing.assert_allclose(
        rescore(scores, features, windows).numpy(), by_definition(scores, features, capped), atol=1e-6
    )


def test_scaling_before_or_after_is_the_same() -> None:
    scores, features = images()
    plain, scaled = rescore(scores, features), rescore(scores, features, scale="minmax")
    expected = (plain - scores.min()) / (scores.max() - scores.min())
    torch.testing.assert_close(scaled, expected, atol=1e-6, rtol=0)


def test_a_window_of_zero_switches_it_off_and_equal_scores_are_finite() -> None:
    scores, features = images()
    assert torch.equal(rescore(scores, features, (0, 2), scale="minmax"), scores)
    same = torch.full((9,), 0.3)
    torch.testing.assert_close(rescore(same, features), same, atol=1e-6, rtol=0)
    assert torch.equal(rescore(same, features, scale="minmax"), torch.zeros(9))


def test_half_precision_makes_ties_but_rounds_nothing_else() -> None:
    scores, features = images(40)
    half = rescore(scores, features, (1, 2, 3), "float16")
    rounded = (features.half().float() @ features.half().float().T).half().float()
    for row in range(40):  # whichever of tied images is taken, weights and means are those of single precision
        nearest = rounded[row].sort(descending=True).values[:3]
        candidates = scores[rounded[row] >= nearest[-1]]
        assert candidates.min() <= half[row] <= candidates.max() or torch.isclose(half[row], candidates.min())
    torch.testing.assert_close(half, rescore(scores, features), atol=0.5, rtol=0)


def test_opposite_features_cannot_divide_by_zero() -> None:
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(rescore(torch.tensor([0.2, 0.9]), features, (2,)), torch.tensor([0.2, 0.9]))


def test_a_new_image_is_averaged_with_itself_and_its_neighbours() -> None:
    scores, features = images()
    for windows in ((1, 2, 3), (1, 100)):
        got = rescore(scores[:1], features[:1], windows, known=(scores[1:], features[1:]))
        torch.testing.assert_close(got, rescore(scores, features, windows)[:1], atol=1e-6, rtol=0)
    scaled = rescore(scores[:1], features[:1], (1,), scale="minmax", known=(scores[1:], features[1:]))
    known = scores[1:]
    torch.testing.assert_close(scaled, (scores[:1] - known.min()) / (known.max() - known.min()))


def test_the_blocks_of_rows_leave_no_seam() -> None:
    scores, features = images(2500)
    seams = [0, 1023, 1024, 2499]
    expected = by_definition(scores, features, (1, 2, 3))
    np.testing.assert_allclose(rescore(scores, features).numpy()[seams], expected[seams], atol=1e-6)
