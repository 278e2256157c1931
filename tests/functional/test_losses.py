"""Losses against their formulas in NumPy, and what the formulas imply."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from zsad.functional.losses import dice, focal


@pytest.fixture
def probs() -> Tensor:
    """Three probability pairs of 6 x 5 pixels, some of them saturated."""
    logits = 8 * torch.randn(3, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    return logits.softmax(dim=1)


@pytest.fixture
def mask() -> Tensor:
    return torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1)) > 0.6


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_focal_is_its_formula(probs: Tensor, mask: Tensor, gamma: float) -> None:
    p, y, smooth = probs.double().numpy(), mask.numpy(), 1e-5
    onehot = np.clip(np.stack([~y, y], axis=1), smooth, 1 - smooth)
    pt = np.minimum((onehot * p).sum(axis=1) + smooth, 1 + 1e-12)
    expected = (-(np.maximum(1 - pt, 0) ** gamma) * np.log(pt)).mean()
    assert focal(probs, mask, gamma, smooth).item() == pytest.approx(expected, rel=1e-4)


def test_dice_is_its_formula(probs: Tensor, mask: Tensor) -> None:
    p, y = probs[:, 1].double().numpy().reshape(3, -1), mask.numpy().reshape(3, -1)
    expected = 1 - ((2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)).mean()
    assert dice(probs[:, 1], mask).item() == pytest.approx(expected, rel=1e-6)


def test_gradients(probs: Tensor, mask: Tensor) -> None:
    inner = (0.1 + 0.8 * probs.double()).requires_grad_()  # away from the clamp's corner
    assert torch.autograd.gradcheck(lambda p: focal(p, mask) + dice(p[:, 1], mask) + dice(p[:, 0], ~mask), inner)


def test_saturated_probabilities_stay_finite(mask: Tensor) -> None:
    wrong = torch.stack([mask, ~mask], dim=1).float().requires_grad_()
    loss = focal(wrong, mask, gamma=1.5) + dice(wrong[:, 1], mask)
    loss.backward()
    assert wrong.grad is not None
    assert loss.isfinite()
    assert wrong.grad.isfinite().all()
    right = torch.stack([~mask, mask], dim=1).float()
    assert 0 <= focal(right, mask, gamma=1.5).item() < 1e-6 < loss.item()


def test_a_batch_is_the_mean_of_its_images(probs: Tensor, mask: Tensor) -> None:
    for loss in (lambda i: focal(probs[i], mask[i]), lambda i: dice(probs[i, 1], mask[i])):
        alone = torch.stack([loss(slice(i, i + 1)) for i in range(3)])
        torch.testing.assert_close(loss(slice(None)), alone.mean())


def test_masks_of_numbers_and_of_truth_values_agree(probs: Tensor, mask: Tensor) -> None:
    assert focal(probs, mask.float()) == focal(probs, mask)
    assert dice(probs[:, 1], mask.to(torch.uint8)) == dice(probs[:, 1], mask)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"probs of shape \(batch, 2, height, width\).*\(1, 3, 4, 4\)"):
        focal(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"got \(1, 4, 4\) and \(4, 4\)"):
        dice(torch.zeros(1, 4, 4), torch.zeros(4, 4))
