"""Two square tiles of a wide image, as AnoVL's VisA script cuts and merges them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsad.functional.maps import upsample


def square_tiles(image: Tensor, image_paths: Sequence[str]) -> Tensor:
    """Return the left and the right square of images, (batch, 2, 3, height, height); released VisA script of AnoVL.

    Args:
        image: (batch, 3, height, width) with height <= width <= 2 * height.
        image_paths: Paths for the error message.

    Raises:
        ValueError: If an image is higher than wide or more than twice as wide as high.
    """
    height, width = image.shape[-2:]
    if not height <= width <= 2 * height:
        raise ValueError(
            f"Two square tiles cover images from 1:1 to 2:1, but '{image_paths[0]}' is {width} x {height} pixels "
            f"(width x height) for the model; use tiling=False or turn the image."
        )
    return torch.stack([image[..., :height], image[..., width - height :]], dim=1)


def merge_tiles(maps: Tensor, width: int) -> Tensor:
    """Return the maps of tiles as one per image, (batch, height, width); the mean where tiles overlap.

    Args:
        maps: (batch, 1, height, width), returned as (batch, height, width), or (batch, 2, height, height).
        width: Width of the result.
    """
    if maps.shape[1] == 1:
        return maps[:, 0]
    left, right = maps.unbind(dim=1)
    margin = width - maps.shape[-1]
    both = (left[..., margin:] + right[..., : left.shape[-1] - margin]) / 2
    return torch.cat([left[..., :margin], both, right[..., left.shape[-1] - margin :]], dim=-1)


class TilePixels:
    """Enlarges the cosines of tiles to pixels and merges the tiles: (images, tiles * patches, 2) -> (images, m, 2)."""

    def __init__(self, grid: tuple[int, int], patch: int, width: int) -> None:
        self.grid, self.size, self.width = grid, (grid[0] * patch, grid[1] * patch), width

    def __call__(self, cosines: Tensor) -> Tensor:
        """Return cosines per pixel of the whole images."""
        patches = self.grid[0] * self.grid[1]
        tiles = cosines.shape[1] // patches
        maps = cosines.reshape(-1, tiles, *self.grid, 2).permute(0, 4, 1, 2, 3).flatten(0, 2)
        enlarged = upsample(maps, self.size, align_corners=True).unflatten(0, (-1, tiles))
        return merge_tiles(enlarged, self.width).unflatten(0, (-1, 2)).flatten(2).transpose(1, 2)
