"""The augmented views over which AnoVL's released script averages its image score."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

ROTATIONS = tuple(k * math.pi / 16 for k in (-4, -3, -2, -1, 1, 2, 3, 4))
SHIFTS = ((0.2, 0.2), (-0.2, 0.2), (-0.2, -0.2), (0.2, -0.2), (0.1, 0.1), (-0.1, 0.1), (-0.1, -0.1), (0.1, -0.1))
GREY = (0.299, 0.587, 0.114)


def augmented_views(image: Tensor) -> Iterator[Tensor]:
    """Yield the 21 views besides the image itself, each of the image's shape; released script of AnoVL for MVTec AD.

    In order: 8 rotations by multiples of pi / 16, 8 shifts by 10 or 20 % (both with reflected borders), the horizontal
    flip, grey, and rotations by 90, 180 and 270 degrees counter-clockwise.

    Args:
        image: Normalised images, (batch, 3, side, side).
    """
    for angle in ROTATIONS:
        yield _warp(image, [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    for x, y in SHIFTS:
        yield _warp(image, [[1.0, 0.0, x], [0.0, 1.0, y]])
    yield image.flip(-1)
    grey = (image * image.new_tensor(GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    yield grey.expand_as(image)
    for quarters in (1, 2, 3):
        yield torch.rot90(image, quarters, (2, 3))


def _warp(image: Tensor, theta: list[list[float]]) -> Tensor:
    grid = F.affine_grid(image.new_tensor(theta).expand(len(image), 2, 3), list(image.shape), align_corners=True)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
