"""The values that travel between the parts: batches, tokens, predictions and the image protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from torch import Tensor
from typing_extensions import NotRequired

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a benchmark or a folder, before it is opened.

    Args:
        image_path: The image file.
        class_name: Raw name of the class, as the benchmark spells it, e.g. ``"metal_nut"``.
        label: 0 normal, 1 anomalous, None if nobody knows.
        mask_path: The mask file; None for a normal image or where no mask exists.
        defect: Kind of defect (the benchmark's folder name), for reports only.
        box: (left, top, right, bottom) in pixels of the part of the file that is meant; None for the whole file. The
            mask, which has the image's size, is cut alike.
    """

    image_path: Path
    class_name: str
    label: int | None = None
    mask_path: Path | None = None
    defect: str = ""
    box: tuple[int, int, int, int] | None = None


class Batch(TypedDict):
    """What a data loader yields; a plain dict, so that default collation, pinning and device moves work."""

    image: Tensor
    """Normalised images, (batch, 3, height, width) float32."""
    class_name: list[str]
    """Raw class name of each image."""
    image_path: list[str]
    """Where each image came from."""
    gt_label: NotRequired[Tensor]
    """(batch,) int64: 0 normal, 1 anomalous; absent if any label is unknown."""
    gt_mask: NotRequired[Tensor]
    """(batch, height, width) bool, all false for a normal image; absent where the data set has no masks."""
    warning: NotRequired[list[str | None]]
    """What is doubtful about each image; absent if nothing is."""
    tiles: NotRequired[dict[str, Any]]
    """How one large image was cut, see :class:`zsad.images.tiling.Tiles`; ``image`` is then (1, parts, 3, height,
    width), and ``gt_mask`` has the size of the merged map."""
    tile_box: NotRequired[Tensor]
    """(1, parts, 4) int64: left, top, right and bottom of each part in pixels of the image."""
    source_size: NotRequired[Tensor]
    """(1, 2) int64: height and width of an image that was cut."""
    features: NotRequired[dict[str, Tensor]]
    """Cached output of a trained method's ``frozen_features``, batch first; ``image`` is then not needed."""


class Prediction(NamedTuple):
    """What a method says of a batch; larger is more anomalous, the scale differs between methods."""

    anomaly_map: Tensor
    """(batch, height, width) float, unbounded."""
    pred_score: Tensor
    """(batch,) float."""


class Tokens(NamedTuple):
    """What the image tower saw, after ``ln_post`` and projection."""

    cls: Tensor
    """(batch, dim) global embedding, not normalised; equals open_clip's ``encode_image``."""
    patches: Mapping[int, Tensor]
    """Block number (from 1) -> (batch, patches, dim), row by row, class token left out, not normalised."""


@dataclass(frozen=True, slots=True)
class Context:
    """What ``score`` may need to know about each image besides its pixels."""

    class_names: Sequence[str]
    """Raw class name of each image (per-class memories)."""
    image_paths: Sequence[str]
    """Path of each image, or its position as text where it has none (per-image random seeds)."""


@dataclass(frozen=True, slots=True)
class ImageProtocol:
    """How an image file becomes a tensor; the papers differ and the numbers with them, so the method says it.

    Args:
        size: Side in pixels of the model's input.
        resize: ``"squash"`` to (size, size) whatever the aspect ratio; ``"short_side"`` keeps the ratio and makes the
            shorter side ``size`` (batches of one image then).
        interpolation: Filter for the image, always with antialiasing.
        mask_resize: Filter for the mask; bilinear is antialiased and thresholded at > 0.5, as in the released code.
        mean: Per-channel mean in [0, 1], subtracted.
        std: Per-channel standard deviation in [0, 1], divided by.
    """

    size: int = 518
    resize: Literal["squash", "short_side"] = "squash"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mask_resize: Literal["bilinear", "nearest"] = "bilinear"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
