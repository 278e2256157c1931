"""Training losses on probability maps, as the papers of this field share them: focal and dice."""

import torch
from torch import Tensor


def focal(probs: Tensor, mask: Tensor, gamma: float = 2.0, smooth: float = 1e-5) -> Tensor:
    """Return the mean focal loss over all pixels, scalar.

    The one-hot target is clamped to [smooth, 1 - smooth] and ``smooth`` is added to the probability of the true state
    before the logarithm, as in the released code of AnomalyCLIP and VAND; there is no class weight.

    Args:
        probs: Probabilities of (normal, anomalous), not logits, (batch, 2, height, width).
        mask: True or 1 where a pixel is anomalous, (batch, height, width).
        gamma: Exponent that mutes easy pixels; 0 gives cross-entropy.
        smooth: The small number of the clamp and of the logarithm.

    Raises:
        ValueError: If the shapes do not fit.

    References:
        Lin et al., arXiv 1708.02002, equation 4.
    """
    if probs.ndim != 4 or probs.shape[1] != 2 or mask.shape != probs[:, 0].shape:
        raise ValueError(
            f"Expected probs of shape (batch, 2, height, width) and a mask of (batch, height, width), "
            f"got {tuple(probs.shape)} and {tuple(mask.shape)}."
        )
    anomalous = mask > 0.5
    normal_prob, anomalous_prob = probs.unbind(dim=1)
    true = torch.where(anomalous, anomalous_prob, normal_prob)
    other = torch.where(anomalous, normal_prob, anomalous_prob)
    prob = (1 - smooth) * true + smooth * other + smooth
    easy = (1 - prob).clamp(min=0) ** gamma  # rounding may lift prob above 1, which a fractional power does not take
    return -(easy * prob.log()).mean()


def dice(prob: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """Return one minus the mean over images of the soft dice overlap, scalar in [0, 1].

    Args:
        prob: Probability that a pixel belongs to the region, (batch, height, width).
        mask: True or 1 where it does, (batch, height, width).
        smooth: Added to numerator and denominator, so that an image without region and without probability scores 1.

    Raises:
        ValueError: If the shapes differ.

    References:
        Milletari et al., arXiv 1606.04797, in the form of AnomalyCLIP's released code.
    """
    if prob.ndim != 3 or prob.shape != mask.shape:
        raise ValueError(
            f"Expected a probability and a mask of shape (batch, height, width), got {tuple(prob.shape)} and "
            f"{tuple(mask.shape)}."
        )
    prob, mask = prob.flatten(1), mask.flatten(1).to(prob.dtype)
    overlap = (2 * (prob * mask).sum(1) + smooth) / (prob.sum(1) + mask.sum(1) + smooth)
    return 1 - overlap.mean()
