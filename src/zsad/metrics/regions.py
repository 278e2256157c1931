"""Connected regions of masks, labelled on the host."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Connectivity = Literal[4, 8]


class Regions(NamedTuple):
    """The defect pixels of one mask."""

    pixel: Tensor
    """(p,) int64 flat positions of the defect pixels, rising."""
    area: Tensor
    """(p,) int64, number of pixels of the region that each of them belongs to."""
    number: int
    """Number of regions."""


def find_regions(mask: Tensor, connectivity: Connectivity = 8) -> Regions:
    """Return the defect pixels of a mask with the area of each one's region, on the CPU.

    Args:
        mask: (height, width) bool.
        connectivity: 8 if diagonal neighbours touch, 4 if they do not.
    """
    pixels = mask.cpu().numpy()
    pixel = np.flatnonzero(pixels)
    if not len(pixel):
        nothing = torch.zeros(0, dtype=torch.int64)
        return Regions(nothing, nothing, 0)
    row, column = np.divmod(pixel, pixels.shape[1])
    top, left = row[0], column.min()
    crop = pixels[top : row[-1] + 1, left : column.max() + 1]  # defects are small: label only where they are
    labels, number = ndimage.label(crop, structure=ndimage.generate_binary_structure(2, connectivity // 4))
    label = labels[row - top, column - left]
    area = np.bincount(label)[label]
    return Regions(torch.from_numpy(pixel), torch.from_numpy(area), int(number))


def count_regions(gt_mask: Tensor, connectivity: Connectivity = 8) -> int:
    """Return the number of connected defect regions in all masks.

    Args:
        gt_mask: (height, width), (batch, height, width) or (batch, 1, height, width); defect where ``> 0.5``.
        connectivity: 8 if diagonal neighbours touch, 4 if they do not.

    Example:
        >>> count_regions(torch.tensor([[1, 0], [0, 1]])), count_regions(torch.tensor([[1, 0], [0, 1]]), 4)
        (1, 2)
    """
    check_connectivity(connectivity)
    masks = (gt_mask > 0.5).reshape(-1, *gt_mask.shape[-2:])
    return sum(find_regions(mask, connectivity).number for mask in masks)


def check_connectivity(connectivity: int) -> None:
    """Raise ``ValueError`` unless the connectivity is 4 or 8."""
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 8 (diagonal neighbours touch) or 4, got {connectivity!r}.")
