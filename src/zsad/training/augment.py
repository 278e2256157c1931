"""Training augmentation: colour jitter on the picture, geometry on the finished tensor and its mask together."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

_JITTERS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)


class ColourJitter:
    """Brightness, contrast and saturation, each changed with its own coin, in this order.

    Made for the ``augment`` argument of a data module: it works on the picture before it is resized, and never touches
    the mask. Random numbers are torch's, which a data loader seeds anew in each worker and epoch.

    Args:
        p: Probability of each of the three changes; AA-CLIP's code has 0.7, its supplement 0.5.
        strength: Factors are uniform in [1 - strength, 1 + strength].

    Raises:
        ValueError: If an argument is outside [0, 1].

    References:
        AA-CLIP (arXiv 2503.06661), released code, second stage.
    """

    def __init__(self, p: float = 0.7, strength: float = 0.5) -> None:
        for name, value in (("p", p), ("strength", strength)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}.")
        self.p = p
        self.strength = strength

    def __call__(self, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> dict[str, Any]:
        """Return ``image`` (uint8, (height, width, 3)) jittered, and ``mask`` as it is."""
        picture = Image.fromarray(image)
        for adjust in _JITTERS:
            coin, position = torch.rand(2).tolist()  # always two numbers: one change does not shift the next one's draw
            if coin < self.p:
                picture = adjust(picture, 1 + self.strength * (2 * position - 1))
        return {"image": np.asarray(picture), "mask": mask}


def move(
    image: Tensor, mask: Tensor, generator: torch.Generator, p: float = 0.5, rotation: float = 30.0, shift: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Return an image and its mask rotated, shifted and mirrored together, each of four changes with its own coin.

    Order: rotation about the centre (size kept), shift by whole pixels, left-right, upside down. Nearest neighbour;
    what comes in from outside is 0: the mean colour of a normalised image, and no defect in the mask.

    Args:
        image: Normalised image, (3, height, width).
        mask: (height, width) bool.
        generator: Source of the random numbers, on the CPU; seven are drawn whatever happens.
        p: Probability of each change.
        rotation: Angles are uniform in [-rotation, rotation] degrees.
        shift: Shifts are uniform in [-shift, shift] times the width and the height.

    References:
        AA-CLIP (arXiv 2503.06661), released code, both stages.
    """
    coins, numbers = torch.rand(4, generator=generator).tolist(), (2 * torch.rand(3, generator=generator) - 1).tolist()
    stack = torch.cat([image, mask[None].to(image.dtype)])
    height, width = stack.shape[-2:]
    if coins[0] < p:
        stack = tv.rotate(stack, rotation * numbers[0], InterpolationMode.NEAREST, fill=0.0)
    if coins[1] < p:
        pixels = [round(shift * width * numbers[1]), round(shift * height * numbers[2])]
        stack = tv.affine(stack, 0.0, pixels, 1.0, [0.0, 0.0], InterpolationMode.NEAREST, fill=0.0)
    if coins[2] < p:
        stack = tv.horizontal_flip(stack)
    if coins[3] < p:
        stack = tv.vertical_flip(stack)
    return stack[:-1], stack[-1] > 0.5


def move_batch(image: Tensor, mask: Tensor, keys: Sequence[str], **options: float) -> tuple[Tensor, Tensor]:
    """Return a batch with :func:`move` applied to each image, seeded by its key alone.

    An image's change thus depends neither on its neighbours nor on workers, processes or an interruption.

    Args:
        image: (batch, 3, height, width).
        mask: (batch, height, width) bool.
        keys: One text per image, for instance seed, epoch and path.
        **options: ``p``, ``rotation`` and ``shift`` of :func:`move`.
    """
    generators = [torch.Generator().manual_seed(zlib.crc32(key.encode())) for key in keys]
    moved = [move(one, marked, source, **options) for one, marked, source in zip(image, mask, generators, strict=True)]
    images, masks = zip(*moved, strict=True)
    return torch.stack(images), torch.stack(masks)


_ANGLES = tuple(part * math.pi for part in (-1 / 8, -1 / 16, 1 / 16, 1 / 8))
_SHIFTS = ((0.1, 0.1), (-0.1, 0.1), (-0.1, -0.1), (0.1, -0.1))  # in halves of a side
VIEWS = 1 + len(_ANGLES) + len(_SHIFTS) + 2
"""Number of views that :func:`view` knows."""


def view(image: Tensor, number: int) -> Tensor:
    """Return one of eleven fixed views: as it is, four rotations, four shifts, left-right, upside down.

    Bilinear, what comes in from outside is reflected. Masks go the same way and are marked above 0.5 afterwards.

    Args:
        image: (batch, channels, height, width).
        number: 0 to 10, in this order.

    Raises:
        ValueError: If there is no such view.

    References:
        MVFA (arXiv 2403.12570), released code, few-shot.
    """
    if not 0 <= number < VIEWS:
        raise ValueError(f"There are views 0 to {VIEWS - 1}, got {number}.")
    if number == 0:
        return image
    if number >= VIEWS - 2:
        return image.flip(-1 if number == VIEWS - 2 else -2)
    if number <= len(_ANGLES):
        angle = _ANGLES[number - 1]
        matrix = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    else:
        right, down = _SHIFTS[number - 1 - len(_ANGLES)]
        matrix = [[1.0, 0.0, right], [0.0, 1.0, down]]
    theta = torch.tensor(matrix, dtype=image.dtype, device=image.device).expand(len(image), -1, -1)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
