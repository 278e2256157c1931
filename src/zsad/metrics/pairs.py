"""Maps and masks in any accepted shape, as pairs of two-dimensional tensors."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Resize = Literal["error", "mask", "map"]


def as_planes(maps: Tensor | Sequence[Tensor], what: str) -> list[Tensor]:
    """Return one (height, width) tensor per image.

    Args:
        maps: (height, width), (batch, height, width), (batch, 1, height, width), or a sequence with one
            (height, width) or (1, height, width) tensor per image, whose sizes may differ.
        what: Name for the error message.

    Raises:
        ValueError: For any other shape.
    """
    if isinstance(maps, Tensor):
        if maps.ndim == 2:
            return [maps]
        if maps.ndim == 4 and maps.shape[1] == 1:
            return list(maps[:, 0])
        if maps.ndim == 3:
            return list(maps)
        raise ValueError(
            f"{what} must have shape (height, width), (batch, height, width) or (batch, 1, height, width), "
            f"got {tuple(maps.shape)}."
        )
    planes = [plane[0] if plane.ndim == 3 and len(plane) == 1 else plane for plane in maps]
    for plane in planes:
        if plane.ndim != 2:
            raise ValueError(f"Each {what} of a sequence must have shape (height, width), got {tuple(plane.shape)}.")
    return planes


def as_pairs(
    anomaly_map: Tensor | Sequence[Tensor], gt_mask: Tensor | Sequence[Tensor], resize: Resize = "error"
) -> list[tuple[Tensor, Tensor]]:
    """Return (map, boolean mask) of each image, both of one size; mask pixels above 0.5 are defect.

    Args:
        anomaly_map: Scores, shapes as in :func:`as_planes`.
        gt_mask: Masks, as many as maps; bool, or numbers of which those above 0.5 mean defect.
        resize: What happens where a mask and its map differ in size: ``"error"`` raises, ``"mask"`` resizes the mask
            (bilinear with antialiasing, then ``> 0.5``), ``"map"`` resizes the map (bilinear).

    Raises:
        ValueError: If the numbers differ, or sizes with ``resize="error"``.
    """
    maps, masks = as_planes(anomaly_map, "anomaly_map"), as_planes(gt_mask, "gt_mask")
    if len(maps) != len(masks):
        raise ValueError(f"Expected one mask per map, got {len(maps)} maps and {len(masks)} masks.")
    return [match_sizes(one, mask, resize) for one, mask in zip(maps, masks, strict=True)]


def match_sizes(anomaly_map: Tensor, mask: Tensor, resize: Resize) -> tuple[Tensor, Tensor]:
    """Return a map and its boolean mask at one size; see :func:`as_pairs`."""
    if anomaly_map.shape != mask.shape:
        if resize == "mask":
            mask = _resize(mask, anomaly_map.shape, antialias=True)
        elif resize == "map":
            anomaly_map = _resize(anomaly_map, mask.shape, antialias=False)
        else:
            raise ValueError(
                f"The map is {tuple(anomaly_map.shape)} pixels (height, width), its mask {tuple(mask.shape)}: resize "
                "one of them, or say resize='mask' or resize='map'."
            )
    return anomaly_map, mask if mask.dtype == torch.bool else mask > 0.5


def check_finite(scores: Sequence[Tensor], what: str, names: Sequence[str] | None = None) -> None:
    """Raise if a tensor holds NaN or infinity; one look at the device for all of them.

    Args:
        scores: One tensor per image.
        what: What the scores are, for the message.
        names: Name of each image, for the message; positions by default.

    Raises:
        ValueError: Naming the images.
    """
    extremes = [torch.stack(one.aminmax()) for one in scores if one.numel()]
    if not extremes or bool(torch.stack(extremes).isfinite().all()):
        return
    bad = [
        f"number {index} of this batch" if names is None else str(names[index])
        for index, one in enumerate(scores)
        if not bool(one.isfinite().all())
    ]
    shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    raise ValueError(
        f"{what} must be finite, but NaN or infinite values came with image {shown}. One such value would spoil every "
        "metric of its class: repair or leave out these images."
    )


def _resize(plane: Tensor, size: torch.Size, antialias: bool) -> Tensor:
    plane = plane.float()
    return F.interpolate(
        plane[None, None], size=tuple(size), mode="bilinear", align_corners=False, antialias=antialias
    )[0, 0]
