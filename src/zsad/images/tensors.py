"""Pictures and masks become tensors as the protocol says."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.images.picture import Size
from zsad.images.pixels import model_pixels, resized
from zsad.images.tiling import Tiles
from zsad.images.where import EVERYWHERE, Where
from zsad.types import ImageProtocol


def to_tensor(image: Image.Image, protocol: ImageProtocol) -> Tensor:
    """Return a picture resized and normalised as the protocol says, (3, height, width) float32.

    Resizing is Pillow's own (antialiased, on 8-bit values), as in the released code of the methods.
    """
    return normalise(to_pixels(image, protocol), protocol)


def to_pixels(image: Image.Image, protocol: ImageProtocol) -> Tensor:
    """Return a picture resized as the protocol says, (3, height, width) uint8: what :func:`normalise` takes."""
    return torch.from_numpy(model_pixels(image, protocol))


def normalise(pixels: Tensor, protocol: ImageProtocol) -> Tensor:
    """Return 8-bit pictures (..., 3, height, width) as float32, from [0, 1] normalised as the protocol says."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (protocol.mean, protocol.std))
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Look:
    """How a picture is looked at: where, and whether in tiles.

    Args:
        protocol: Size and normalisation of the tensors.
        tiles: How it is cut; None for whole.
        where: What is cut out before.
    """

    protocol: ImageProtocol
    tiles: Tiles | None = None
    where: Where = EVERYWHERE

    def __call__(self, picture: Image.Image) -> list[Tensor]:
        """Return the picture, or what is looked at of it, and its tiles, each (3, height, width).

        Raises:
            ImageError: The region of interest leaves the picture.
        """
        if self.where.roi is not None:
            picture = picture.crop(self.where.box((picture.height, picture.width)))
        boxes = [] if self.tiles is None else self.tiles.boxes((picture.height, picture.width))
        parts = [picture.crop(box) for box in boxes if box != (0, 0, *picture.size)]
        return [to_tensor(part, self.protocol) for part in (picture, *parts)]


def mask_to_tensor(mask: NDArray[np.bool_], protocol: ImageProtocol, size: Size | None = None) -> Tensor:
    """Return a mask at the model's size, (height, width) bool.

    Args:
        mask: Marked pixels at the mask file's own size, (height, width).
        protocol: ``mask_resize`` is either ``"bilinear"`` (antialiased, marked where more than half is covered) or
            ``"nearest"``.
        size: (height, width) of the result; by default what the image of the mask's size becomes.
    """
    height, width = size or resized((mask.shape[0], mask.shape[1]), protocol)
    if not mask.any():
        return torch.zeros((height, width), dtype=torch.bool)
    levels = Image.fromarray(mask.astype(np.uint8) * 255)
    method = Image.Resampling.NEAREST if protocol.mask_resize == "nearest" else Image.Resampling.BILINEAR
    return torch.from_numpy(np.asarray(levels.resize((width, height), method)) > 127)  # > 0.5 of 255
