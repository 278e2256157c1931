"""The generated benchmark as a data module: pictures are drawn when they are asked for, nothing is on the disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.training import TrainingDataset
from zsad.synthetic import Split, generate, split_specs
from zsad.types import Record

_NORMAL = "good"
_SEEDS = 10**6  # of split_specs


class SyntheticDataset(TrainingDataset):
    """Pictures that a record's path describes: ``.../<class>/<defect or good>/<seed>.png``, which is no file."""

    def __init__(self, *args: Any, masks: bool | None = None, **options: Any) -> None:
        super().__init__(*args, masks=True, **options)

    def read(self, record: Record) -> tuple[Image.Image, NDArray[np.bool_] | None]:
        """Return the picture, 96 x 96, and the mask of its defect."""
        sample = generate(record.class_name, record.defect, int(record.image_path.stem))
        return Image.fromarray(sample.image), sample.mask


class Synthetic(BenchmarkDataModule):
    """Procedural textures and objects with exact masks; they show that the machinery works and nothing of real images.

    The embedded ``zsad-mini`` and ``zsad-mini-2`` were trained on other pictures of it: of "seen" classes
    and defects only. Training here takes fresh ones of these, whatever ``split`` is tested on.

    Args:
        split: Pictures to test on: of classes and defects that these have seen, or not (``"held-out both"``).
        images: Number of test pictures.
        train_images: Number of training pictures.
        defective: Share of the test pictures of each class that have a defect.
        seed: In 0..999999; another seed gives other pictures of the same kind, and another draw of shots.
        train_split: ``"train"`` for the fresh pictures; ``"test"`` would train on the pictures of the test.
        **options: Those of :class:`~zsad.datamodules.base.BenchmarkDataModule`, but ``root``: there are no files.

    Raises:
        ValueError: A number is out of range or the split unknown.
    """

    name = "synthetic"
    dataset_class = SyntheticDataset

    def __init__(
        self,
        split: Split = "held-out both",
        images: int = 200,
        train_images: int = 400,
        seed: int = 0,
        train_split: str = "train",
        defective: float = 0.5,
        **options: Any,
    ) -> None:
        split_specs(split, images, seed, defective)  # raises on what is out of range, before a class is looked for
        split_specs("seen", train_images, seed)
        # in the place of a folder: a name for the pictures of the test, by which a checkpoint knows its source again
        super().__init__(Path("synthetic", split, f"{seed:06d}"), seed=seed, train_split=train_split, **options)
        self.split: Split = split
        self.images = images
        self.defective = defective
        self.train_images = train_images

    @property
    def has_masks(self) -> bool:
        """True: every picture has one."""
        return True

    def records(self, split: str) -> Iterator[Record]:
        """Yield what to draw.

        Raises:
            ValueError: The part is neither ``"train"`` nor ``"test"``.
        """
        if split not in ("train", "test"):
            raise ValueError(f"The synthetic benchmark has the parts 'train' and 'test', got '{split}'.")
        specs = split_specs(self.split, self.images, self.seed, self.defective)
        if split == "train":
            specs = split_specs("seen", self.train_images, (self.seed + 1) % _SEEDS)
        for class_name, defect, seed in specs:
            path = self.root / class_name / (defect or _NORMAL) / f"{seed}.png"
            yield Record(path, class_name, int(bool(defect)), defect=defect)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: while fitting, the training pictures, which are no pictures of a test."""
        state = super().state_dict()
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        return {**state, "root": "synthetic/train"} if fitting and self.train_split == "train" else state
