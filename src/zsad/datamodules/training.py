"""Training on a benchmark's images: few-shot draws, mosaics of four images, augmentation."""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from zsad.datamodules.dataset import AnomalyDataset, Augment
from zsad.images import ImageError, normalise
from zsad.training.augment import VIEWS, view
from zsad.types import ImageProtocol, Record


class TrainingDataset(AnomalyDataset):
    """An :class:`AnomalyDataset` that can put mosaics of four images in place of single ones.

    Random choices come from torch's generator, which a data loader seeds anew in each worker and epoch.

    Args:
        records: What to read.
        protocol: Size and normalisation of the tensors.
        stitch: Probability of a mosaic: 2 x 2 images drawn with equal probability from the class, each brought to the
            size of the first, masks alike. It is anomalous if one of the four is. [VAND's released code, on MVTec AD]
        views: Whether every image appears in the eleven views of :func:`zsad.training.augment.view`, one view of all
            images after the other. [MVFA's released code, few-shot]
        **options: Those of :class:`AnomalyDataset`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        protocol: ImageProtocol,
        *,
        stitch: float = 0.0,
        views: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(records, protocol, **options)
        if not 0 <= stitch <= 1:
            raise ValueError(f"stitch is a probability in [0, 1], got {stitch}.")
        self.stitch = stitch
        self.views = views
        self._by_class: dict[str, list[int]] = {}
        if stitch:
            for index, record in enumerate(records):
                self._by_class.setdefault(record.class_name, []).append(index)

    def __len__(self) -> int:
        return len(self.records) * (VIEWS if self.views else 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not self.views:
            return self._one(index)
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} views of images, got {index}.")
        number, place = divmod(index, len(self.records))
        sample = self._one(place)
        return self._seen(sample, number) if isinstance(sample, dict) else sample  # else it was skipped

    def _seen(self, sample: dict[str, Any], number: int) -> dict[str, Any]:
        image = sample["image"]  # bytes in a worker process, see start_worker
        image = normalise(image, self.protocol) if image.dtype == torch.uint8 else image
        changed = {"image": view(image[None], number)[0]}
        if "gt_mask" in sample:
            changed["gt_mask"] = view(sample["gt_mask"][None, None].to(image.dtype), number)[0, 0] > 0.5
        return {**sample, **changed}

    def _one(self, index: int) -> dict[str, Any]:
        if self.stitch and torch.rand(()).item() < self.stitch:
            candidates = self._by_class[self.records[index].class_name]
            drawn = [candidates[i] for i in torch.randint(len(candidates), (4,)).tolist()]
            try:
                return self._mosaic([self.records[i] for i in drawn])
            except (ImageError, ValueError):
                if self.on_error == "raise":
                    raise  # with "skip", the single image takes its place
        return super().__getitem__(index)

    def _mosaic(self, records: Sequence[Record]) -> dict[str, Any]:
        parts = [self.read(record) for record in records]
        image, mask = mosaic(parts)
        unknown = any(record.label is None for record in records)
        label = None if unknown else max(cast(int, record.label) for record in records)
        first = records[0]
        stand_in = Record(first.image_path, first.class_name, label, first.mask_path, first.defect, first.box)
        return self.sample(stand_in, image, mask)

    def start_worker(self, worker: int) -> None:
        """Prepare a loader's worker process, whose augmentation gets its own random numbers."""
        super().start_worker(worker)
        self.seed_worker(worker)

    def seed_worker(self, worker: int) -> None:
        """Give the augmentation fresh random numbers, which follow from torch's seed of this process."""
        reseed = getattr(self.augment, "set_random_seed", None)
        if reseed is not None:
            reseed(torch.initial_seed() % 2**32)


def mosaic(
    parts: Sequence[tuple[Image.Image, NDArray[np.bool_] | None]],
) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Return four pictures as one of twice the first one's width and height, row by row, and their masks alike."""
    width, height = parts[0][0].size
    image, mask = Image.new("RGB", (2 * width, 2 * height)), np.zeros((2 * height, 2 * width), bool)
    for number, (part, marked) in enumerate(parts):
        row, column = divmod(number, 2)
        image.paste(part.resize((width, height), Image.Resampling.BICUBIC), (column * width, row * height))
        if marked is not None:
            fitted = Image.fromarray(marked).resize((width, height), Image.Resampling.NEAREST)
            mask[row * height : (row + 1) * height, column * width : (column + 1) * width] = np.asarray(fitted)
    return image, mask


def draw_shots(
    records: Sequence[Record], shots: int, seed: int = 0, how: Literal["any", "balanced"] = "any"
) -> Iterator[Record]:
    """Yield ``shots`` records of each class, drawn without replacement, in their original order.

    The draw of a class depends on the seed, its name and its images, not on the other classes. How a k-shot draw
    splits into normal and anomalous images is not published; ``"any"`` leaves it to chance.

    Args:
        records: Sorted records with labels.
        shots: Images per class.
        seed: Any non-negative integer.
        how: ``"balanced"`` takes half, rounded up, from the anomalous images and the rest from the normal ones.

    Raises:
        ValueError: A class has too few images.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1 image per class, got {shots}.")
    if how not in ("any", "balanced"):
        raise ValueError(f"shot_draw must be 'any' or 'balanced', got {how!r}.")
    wanted: dict[int | None, int] = {None: shots}
    if how == "balanced":
        wanted = {1: math.ceil(shots / 2), 0: shots // 2}
    groups: dict[tuple[str, int | None], list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault((record.class_name, record.label if how == "balanced" else None), []).append(index)
    chosen: list[int] = []
    for name in sorted({name for name, _ in groups}):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        for label, number in wanted.items():
            indices = groups.get((name, label), [])
            if len(indices) < number:
                kind = {None: "", 0: "normal ", 1: "anomalous "}[label]
                raise ValueError(f"Cannot draw {number} {kind}images of class '{name}': it has {len(indices)}.")
            chosen.extend(indices[i] for i in rng.permutation(len(indices))[:number])
    yield from (records[index] for index in sorted(chosen))


def load_augment(augment: Callable[..., dict[str, Any]] | str | Path | None) -> Augment | None:
    """Return an augmentation, read from a file that albumentations saved if a path is given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a saved pipeline.
    """
    if not isinstance(augment, (str, Path)):
        return augment
    import albumentations

    path = Path(augment)
    if not path.is_file():
        raise FileNotFoundError(f"No augmentation file '{path}'; albumentations.save(pipeline, path) writes one.")
    try:
        return albumentations.load(path, data_format="json" if path.suffix.lower() == ".json" else "yaml")
    except Exception as error:
        raise ValueError(f"'{path}' is not a pipeline saved by albumentations: {error}") from error
