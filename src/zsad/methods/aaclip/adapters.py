"""The learned parts of AA-CLIP under the authors' parameter names, and its pure functions."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from zsad.functional.losses import dice, focal
from zsad.functional.maps import upsample
from zsad.methods.author_files import only_tensors, whose
from zsad.weights.checkpoints import CheckpointError, read_checkpoint

SCALE = 100.0
"""Factor on the cosines of patches and text, in the loss and in the map."""


class Linear(nn.Module):
    """A linear map without bias, (..., ``inputs``) -> (..., ``outputs``), if ``activated`` followed by LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, activated: bool) -> None:
        super().__init__()
        matrix = nn.Linear(inputs, outputs, bias=False)
        self.fc: nn.Module = nn.Sequential(matrix, nn.LeakyReLU()) if activated else matrix

    def forward(self, x: Tensor) -> Tensor:
        """Return the mapped last axis."""
        return self.fc(x)


class TextAdapter(nn.ModuleList):
    """Adapters of the first text blocks and, last, the projection that replaces CLIP's own.

    Args:
        blocks: Number of adapted blocks.
        width: Width of the text tower.
        dim: Size of the joint embedding.
    """

    def __init__(self, blocks: int, width: int, dim: int) -> None:
        super().__init__([*(Linear(width, width, True) for _ in range(blocks)), Linear(width, dim, True)])


class ImageAdapter(nn.Module):
    """Adapters of the first image blocks, a projection per level, and one for the image score.

    Args:
        blocks: Number of adapted blocks.
        levels: Number of levels that are read.
        width: Width of the image tower.
        dim: Size of the joint embedding.
        relu: Whether LeakyReLU follows the projections.
    """

    def __init__(self, blocks: int, levels: int, width: int, dim: int, relu: bool) -> None:
        super().__init__()
        self.layer_adapters = nn.ModuleList([Linear(width, width, True) for _ in range(blocks)])
        self.seg_proj = nn.ModuleList([Linear(width, dim, relu) for _ in range(levels)])
        self.det_proj = Linear(width, dim, relu)


def xavier(module: nn.Module, seed: int) -> None:
    """Fill all matrices with Xavier-uniform numbers that depend on the seed alone, whatever was drawn before."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.xavier_uniform_(parameter, generator=generator)


class SegmentationTerms(NamedTuple):
    """The terms of one level's segmentation loss, scalars."""

    focal: Tensor
    dice_normal: Tensor
    dice_anomalous: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return self.focal + self.dice_normal + self.dice_anomalous


def probabilities(patches: Tensor, text: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return (normal, anomalous) per pixel, (batch, 2, height, width): enlarged first, softmax second.

    Args:
        patches: Patch features at their own length, (batch, patches, dim).
        text: Anchors of each image's class, (batch, 2, dim).
        grid: Rows and columns of patches.
        size: Height and width in pixels.
    """
    with torch.autocast(patches.device.type, enabled=False):
        logits = SCALE * torch.einsum("bnd,bsd->bsn", patches.float(), text.float())
        return upsample(logits.unflatten(-1, grid), size, align_corners=True).softmax(dim=1)


def segmentation_terms(prob: Tensor, mask: Tensor) -> SegmentationTerms:
    """Return the loss terms of probabilities (batch, 2, height, width) against a mask (batch, height, width) bool."""
    mask = mask.bool()
    return SegmentationTerms(focal(prob, mask), dice(prob[:, 0], ~mask), dice(prob[:, 1], mask))


def disentangle(text: Tensor) -> Tensor:
    """Return the square of the batch mean of <normal, anomalous>, of anchors (batch, 2, dim)."""
    return (text[:, 0] * text[:, 1]).sum(dim=-1).mean() ** 2


def level_map(
    patches: Tensor, text: Tensor, grid: tuple[int, int], size: tuple[int, int], blur: tuple[int, float]
) -> Tensor:
    """Return one level's anomaly map (batch, height, width): no softmax, blurred on the grid, then enlarged.

    Values are about (100 * difference of cosines + 1) / 2: neither a probability nor bounded by [0, 1].

    Args:
        patches: Unit-length patch features, (batch, patches, dim).
        text: Anchors of each image's class, (batch, 2, dim).
        grid: Rows and columns of patches.
        size: Height and width in pixels.
        blur: Width of the Gaussian kernel (odd) and its standard deviation, both in patches.

    Raises:
        ValueError: If the grid is too small for the kernel's reflected border.
    """
    kernel, sigma = blur
    if min(grid) <= kernel // 2:
        raise ValueError(
            f"A grid of {grid[0]} x {grid[1]} patches is too small for a {kernel} x {kernel} blur with reflected "
            f"border: it needs {kernel // 2 + 1} patches a side. Use larger images, or blur=(1, 1.0) for none."
        )
    with torch.autocast(patches.device.type, enabled=False):
        difference = torch.einsum("bnd,bd->bn", patches.float(), (text[:, 1] - text[:, 0]).float())
        values = ((SCALE * difference + 1) / 2).unflatten(1, grid)[:, None]
        return upsample(gaussian_blur(values, [kernel, kernel], [sigma, sigma])[:, 0], size, align_corners=True)


def unit(x: Tensor) -> Tensor:
    """Return float32 vectors of length 1 along the last axis."""
    return F.normalize(x.float(), dim=-1)


# ---- files


class StoredAdapter(NamedTuple):
    """One adapter as a file holds it."""

    state: dict[str, Tensor]
    """Parameter names without prefix -> matrices."""
    checkpoint: Mapping[str, Any]
    """Everything else in the file."""
    by_authors: bool
    """True for the layout of the released training, False for a checkpoint of this library."""


def read_adapter(path: str | Path, which: str) -> StoredAdapter:
    """Return an adapter from a checkpoint of this library or from a file that the authors' training wrote.

    Args:
        path: ``*.ckpt`` or ``*.safetensors`` of this library, ``text_adapter.pth``, ``image_adapter.pth`` or
            ``image_adapter_<epoch>.pth``.
        which: ``"text_adapter"`` or ``"image_adapter"``.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be read or does not hold that adapter.
    """
    content = read_checkpoint(path)
    if isinstance(content.get(which), dict):
        whose(path, "AACLIP")
        return StoredAdapter(only_tensors(path, content[which], f"AA-CLIP's {which}"), content, True)
    prefix = f"{which}."
    whole = content.get("state_dict", {})
    state = {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
    if not state:
        raise CheckpointError(
            f"'{path}' holds no {which}: expected a checkpoint of AACLIP or the authors' layout, found "
            f"{sorted(map(str, content))}."
        )
    return StoredAdapter(state, content, False)


def adapted_blocks(state: Mapping[str, Tensor]) -> int:
    """Return how many blocks a stored adapter adapts: the text projection has the index after the last adapter."""
    numbers = set(_numbers(state, ""))
    return max(numbers) if numbers else len(set(_numbers(state, "layer_adapters.")))


def with_relu(state: Mapping[str, Tensor]) -> bool:
    """Return whether a stored image adapter was trained with LeakyReLU after its projections."""
    return "det_proj.fc.0.weight" in state


def _numbers(state: Mapping[str, Tensor], prefix: str) -> Iterator[int]:
    for key in state:
        head = key.removeprefix(prefix).partition(".")[0]
        if key.startswith(prefix) and head.isdigit():
            yield int(head)
