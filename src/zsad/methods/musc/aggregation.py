"""Features of a patch with its neighbourhood: MuSc's mean (LNAMD) and MuSc-V2's weighted mean (SNAMD), unit length."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def joint_norm(tokens: Tensor) -> Tensor:
    """Return tokens normalised over patches and channels together, per image, without learned factors.

    The mean that goes is the image's over everything, which moves directions; the scale cancels in :func:`pooled`.

    Args:
        tokens: Block outputs without class token, (images, patches, width).
    """
    return F.layer_norm(tokens.float(), tokens.shape[1:])


def pooled(tokens: Tensor, grid: Grid, r: int) -> Tensor:
    """Return the mean over r x r patches around each patch, with unit length, (images, patches, width) float32.

    Beyond the border stand zeros; whether they are counted does not matter, as the length goes.

    Args:
        tokens: Output of :func:`joint_norm`, row by row.
        grid: Rows and columns of patches.
        r: Odd side of the neighbourhood in patches.
    """
    x = tokens.float()
    if r > 1:
        planes = x.unflatten(1, grid).permute(0, 3, 1, 2)  # channels stay last in memory: four times faster on a CPU
        x = F.avg_pool2d(planes, r, 1, r // 2).permute(0, 2, 3, 1).flatten(1, 2)
    return F.normalize(x, dim=-1)


def similarity_pooled(tokens: Tensor, grid: Grid, r_list: Sequence[int]) -> Tensor:
    """Return MuSc-V2's features, (images, patches, width) float32: means of the neighbours weighted by likeness.

    A neighbour counts exp(-distance) on raw tokens; zeros beyond the border count by their distance too. The means of
    all sides are averaged before the length is made one.

    Args:
        tokens: Block outputs without class token, (images, patches, width).
        grid: Rows and columns of patches.
        r_list: Odd sides of the neighbourhoods in patches.
    """
    x = tokens.float().unflatten(1, grid)
    reach = max(r_list) // 2
    padded = F.pad(x, (0, 0, reach, reach, reach, reach))
    sums = {r: torch.zeros_like(x) for r in r_list}
    weights = {r: x.new_zeros((*x.shape[:3], 1)) for r in r_list}
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            rows = slice(reach + down, reach + down + grid[0])
            columns = slice(reach + right, reach + right + grid[1])
            neighbour = padded[:, rows, columns]
            weight = torch.exp(-torch.linalg.vector_norm(neighbour - x, dim=-1, keepdim=True))
            for r in r_list:
                if max(abs(down), abs(right)) <= r // 2:
                    sums[r] += weight * neighbour
                    weights[r] += weight
    means = [sums[r] / weights[r] for r in r_list]  # the own patch always counts 1
    return F.normalize(torch.stack(means).mean(dim=0).flatten(1, 2), dim=-1)
