"""From a record to a sample, for every benchmark alike."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from zsad.datamodules.records import PackedRecords
from zsad.images import ImageError, load_picture, mask_levels, mask_to_tensor, normalise, resized, to_pixels, to_tensor
from zsad.images.levels import DEFAULT, ReadOptions
from zsad.images.tiling import Tiles, named
from zsad.types import Batch, ImageProtocol, Record

_LOG = logging.getLogger(__name__)
_WARNING = "zsad_warning"  # of a picture, with it until it becomes a sample

Augment = Callable[..., dict[str, Any]]
"""Called as ``augment(image=uint8 (h, w, 3), mask=uint8 (h, w))``, returns both keys; albumentations pipelines do."""


class MaskSizeError(ValueError):
    """A mask has other proportions than its image."""


class DataWarning(UserWarning):
    """Data are usable but not quite what they should be."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that could not be read while ``on_error="skip"``.

    Args:
        image_path: The image (its mask may be the broken file).
        error: What went wrong, in a sentence.
    """

    image_path: str
    error: str


class AnomalyDataset(Dataset[dict[str, Any]]):
    """Images with their class, label and mask, each a dict with the keys of :class:`~zsad.types.Batch`.

    ``gt_label`` is there if every record has a label, ``gt_mask`` if every anomalous record has a mask (all false for
    normal ones, whatever file they point to).

    Args:
        records: What to read, in this order.
        protocol: Size and normalisation of the tensors.
        mask_threshold: Pixels of a mask file above this level are marked; 0 is "not zero".
        masks: Whether to give masks; by default decided as above.
        on_error: ``"raise"`` stops at an unreadable file, ``"skip"`` returns a :class:`Skipped` in its place, which
            :class:`BatchLoader` takes out and lists.
        augment: Changes image and mask at their own size, for training.
        reading: How grey levels beyond 8 bits are read.
        tiles: How large images are cut: a sample has all parts of one then, and its mask at the merged map's size.

    Raises:
        ImageError: When reading a sample: the image or mask is unreadable.
        MaskSizeError: When reading a sample: the proportions of image and mask differ by more than 1 %.
        ValueError: Tiles are asked for with images that keep their proportions.
    """

    def __init__(
        self,
        records: Sequence[Record],
        protocol: ImageProtocol,
        *,
        mask_threshold: int = 0,
        masks: bool | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        augment: Augment | None = None,
        reading: ReadOptions = DEFAULT,
        tiles: Tiles | None = None,
    ) -> None:
        if tiles is not None and protocol.resize != "squash":
            raise ValueError(
                f"Tiles are square and images of resize='{protocol.resize}' are not: take a protocol with 'squash'."
            )
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        self.records = records if isinstance(records, PackedRecords) else PackedRecords(records)
        self.protocol = protocol
        self.mask_threshold = mask_threshold
        self.on_error = on_error
        self.augment = augment
        self.reading = reading
        self.tiles = tiles
        self.has_labels = self.records.labelled
        self.has_masks = self.records.masked if masks is None else masks
        self.skipped: list[Skipped] = []
        self._told = self._warned = False
        self._pixels = False

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        try:
            image, mask = self.read(record)
        except (ImageError, MaskSizeError) as error:
            if self.on_error == "raise":
                raise
            return cast(dict[str, Any], Skipped(describe(record), str(error)))
        return self.sample(record, image, mask)

    def read(self, record: Record) -> tuple[Image.Image, NDArray[np.bool_] | None]:
        """Return a record's picture and, for an anomalous one, its mask (height, width), at their own size."""
        image = self._open(record.image_path)
        mask = None
        if self.has_masks and record.label != 0 and record.mask_path is not None:
            mask = fit_mask(self._marked(record.mask_path), image, record)
        if record.box is not None:
            left, top, right, bottom = record.box
            image = image.crop(record.box)
            mask = None if mask is None else mask[top:bottom, left:right]
        return image, mask

    def _open(self, path: Path) -> Image.Image:
        picture = load_picture(path, self.reading)
        if picture.warning is not None:
            picture.image.info[_WARNING] = picture.warning
            if not self._warned:
                self._warned = True
                message = f"'{path}': {picture.warning} (window= of the data; said of one image only.)"
                warnings.warn(message, DataWarning, stacklevel=3)
        return picture.image

    def _marked(self, path: Path) -> NDArray[np.bool_]:
        levels = mask_levels(path)
        if not self._told and bool(((levels != levels.min()) & (levels != levels.max())).any()):
            self._told = True
            _LOG.info(
                "Mask '%s' has more than two grey levels; those above %d are marked (mask_threshold).",
                path,
                self.mask_threshold,
            )
        return levels > self.mask_threshold

    def start_worker(self, worker: int) -> None:
        """Prepare a loader's worker process (its ``worker_init_fn``).

        Workers send pictures as bytes, a quarter of the size of floats, since the way to the main process costs more
        than the arithmetic; :class:`BatchLoader` normalises them. The dataset of the main process stays as it is.
        """
        if (info := get_worker_info()) is not None:
            cast(AnomalyDataset, info.dataset)._pixels = True

    def sample(self, record: Record, image: Image.Image, mask: NDArray[np.bool_] | None) -> dict[str, Any]:
        """Return the tensors and names of one record, after the augmentation if there is one."""
        warning = image.info.get(_WARNING)
        if self.augment is not None:
            shape = (image.size[1], image.size[0])
            marked = np.zeros(shape, np.uint8) if mask is None else mask.astype(np.uint8)
            changed = self.augment(image=np.array(image), mask=marked)
            image, mask = Image.fromarray(changed["image"]), changed["mask"] != 0
        seen = to_pixels if self._pixels else to_tensor
        source = (image.height, image.width)
        size = resized(source, self.protocol)
        boxes = [] if self.tiles is None else self.tiles.boxes(source)
        sample: dict[str, Any] = {
            "image": torch.stack([seen(image.crop(box), self.protocol) for box in boxes])
            if boxes
            else seen(image, self.protocol),
            "class_name": record.class_name,
            "image_path": describe(record),
        }
        if self.tiles is not None:
            sample |= {"tile_box": torch.tensor(boxes), "source_size": torch.tensor(source)}
            sample["tiles"] = self.tiles.identity()
            size = self.tiles.map_size(source, self.protocol.size) if len(boxes) > 1 else size
        if warning is not None:
            sample["warning"] = warning
        if self.has_labels:
            sample["gt_label"] = record.label
        if self.has_masks:
            sample["gt_mask"] = mask_to_tensor(np.zeros((1, 1), bool) if mask is None else mask, self.protocol, size)
        return sample


def describe(record: Record) -> str:
    """Return the path of a record's image; of a part of it with a media fragment, ``"a.jpg#xywh=0,635,500,635"``."""
    return str(record.image_path) if record.box is None else named(str(record.image_path), record.box)


def fit_mask(mask: NDArray[np.bool_], image: Image.Image, record: Record) -> NDArray[np.bool_]:
    """Return the mask at the size of its image, (height, width).

    Raises:
        MaskSizeError: The proportions differ by more than 1 %.
    """
    (width, height), (mask_height, mask_width) = image.size, mask.shape
    if (height, width) == mask.shape:
        return mask
    sizes = (
        f"mask '{record.mask_path}' is {mask_width} x {mask_height} pixels, "
        f"its image '{record.image_path}' {width} x {height}"
    )
    if abs(width * mask_height / (height * mask_width) - 1) > 0.01:
        raise MaskSizeError(f"The {sizes}: the proportions differ, so one of the two is the wrong file or is turned.")
    warnings.warn(f"The {sizes}; the mask is resized to the image (nearest neighbour).", DataWarning, stacklevel=3)
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def collate(samples: Sequence[dict[str, Any] | Skipped]) -> tuple[Batch | None, list[Skipped]]:
    """Return the samples as one batch (None if none could be read) and the skipped ones.

    Raises:
        ValueError: The images differ in size.
    """
    skipped = [sample for sample in samples if isinstance(sample, Skipped)]
    good = [sample for sample in samples if not isinstance(sample, Skipped)]
    doubts = [sample.pop("warning", None) for sample in good]
    tiles = [sample.pop("tiles") for sample in good if "tiles" in sample]
    sizes = {tuple(sample["image"].shape[1:]) for sample in good}
    if len(sizes) > 1:
        raise ValueError(
            f"Images of different sizes {sorted(sizes)} cannot share a batch; "
            "with resize='short_side' use batch_size=1."
        )
    batch = cast(Batch, default_collate(good)) if good else None
    if batch is not None and any(doubts):
        batch["warning"] = doubts
    if batch is not None and tiles:
        batch["tiles"] = tiles[0]
    return batch, skipped


class BatchLoader(DataLoader[dict[str, Any]]):
    """A data loader that yields :class:`~zsad.types.Batch` and collects what was skipped in ``dataset.skipped``.

    Give it ``collate_fn=collate``, and ``worker_init_fn=dataset.start_worker`` for speed. A batch of which nothing
    could be read is left out.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        dataset = cast(AnomalyDataset, self.dataset)
        for batch, skipped in super().__iter__():
            for one in skipped:
                if one not in dataset.skipped:
                    dataset.skipped.append(one)
                    warnings.warn(f"Skipped '{one.image_path}': {one.error}", DataWarning, stacklevel=2)
            if batch is not None:
                yield self._normalised(batch, dataset.protocol)

    def _normalised(self, batch: Batch, protocol: ImageProtocol) -> Batch:
        pixels = batch["image"]
        if pixels.dtype == torch.uint8:
            image = normalise(pixels, protocol)
            batch["image"] = image.pin_memory() if self.pin_memory and pixels.is_pinned() else image
        return batch
