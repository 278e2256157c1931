"""From similarities to anomaly maps: pure functions, float32 whatever the trunk's precision is."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity(features: Tensor, text: Tensor) -> Tensor:
    """Return cosines of image features with text vectors, in float32 with autocast off.

    Args:
        features: (batch, dim) or (batch, n, dim), any length.
        text: (batch, k, dim), any length: the text vectors of each image's class.

    Returns:
        (batch, k) or (batch, n, k) in [-1, 1].
    """
    with torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features.float(), dim=-1)
        text = F.normalize(text.float(), dim=-1)
        if features.ndim == 2:
            return torch.einsum("bd,bkd->bk", features, text)
        return torch.einsum("bnd,bkd->bnk", features, text)


def probability(cosines: Tensor, temperature: float) -> Tensor:
    """Return the share of the anomalous state, (..., 2) cosines of (normal, anomalous) -> (...) in [0, 1]."""
    return (cosines.float() / temperature).softmax(dim=-1)[..., 1]


def to_grid(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return patch values (batch, rows * columns) as maps (batch, rows, columns)."""
    return values.unflatten(1, grid)


def upsample(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Return maps (batch, rows, columns) enlarged bilinearly to (batch, height, width), or with channels alike.

    Args:
        maps: (batch, rows, columns) or (batch, channels, rows, columns).
        size: Height and width in pixels.
        align_corners: True where the paper's code says so (AnoVL, VAND, AA-CLIP).
    """
    if maps.ndim == 3:
        return upsample(maps[:, None], size, align_corners)[:, 0]
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def top_mean(maps: Tensor, ratio: float) -> Tensor:
    """Return the mean of the highest share of each map's pixels, (batch, height, width) -> (batch,).

    Args:
        maps: (batch, height, width).
        ratio: The share in (0, 1]; the number of pixels is rounded up.

    Raises:
        ValueError: If the share is outside (0, 1].

    Example:
        >>> top_mean(torch.tensor([[[1.0, 4.0], [3.0, 2.0]]]), 0.3)
        tensor([3.5000])
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}.")
    pixels = maps.flatten(1)
    return pixels.topk(min(math.ceil(ratio * pixels.shape[1]), pixels.shape[1]), dim=1).values.mean(dim=1)


def unit_range(maps: Tensor) -> Tensor:
    """Return maps (batch, height, width) brought to [0, 1] by their own extremes; a constant map becomes 0."""
    low = maps.amin(dim=(1, 2), keepdim=True)
    spread = maps.amax(dim=(1, 2), keepdim=True) - low
    return (maps - low) / spread.where(spread > 0, 1)


def _mirror(length: int, radius: int, device: torch.device) -> Tensor:
    """Indices that extend an axis as d c b a | a b c d | d c b a, wrapping with period 2 * length."""
    index = torch.arange(-radius, length + radius, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Return maps (batch, height, width) blurred by a Gaussian, equal to ``scipy.ndimage.gaussian_filter`` per map.

    Args:
        maps: (batch, height, width).
        sigma: Standard deviation in pixels of the map; 0 returns the maps as they are. The kernel is cut at 4 sigma
            and the border mirrored with the edge pixel repeated, SciPy's defaults.

    Raises:
        ValueError: If sigma is negative.
    """
    if sigma < 0:
        raise ValueError(f"sigma must be >= 0 pixels, got {sigma}.")
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return maps
    taps = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(maps.dtype)
    rows, columns = maps.shape[-2:]
    x = maps[:, None]
    x = F.conv2d(x[:, :, _mirror(rows, radius, maps.device)], kernel.view(1, 1, -1, 1))
    x = F.conv2d(x[..., _mirror(columns, radius, maps.device)], kernel.view(1, 1, 1, -1))
    return x[:, 0]
