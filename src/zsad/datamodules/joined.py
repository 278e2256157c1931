"""Several data sets as one, to train on all of them together."""

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, cast

from torch.utils.data import Dataset, get_worker_info

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.dataset import Augment, BatchLoader, Skipped
from zsad.datamodules.training import TrainingDataset
from zsad.types import ImageProtocol, Record


class Joined(BenchmarkDataModule):
    """The training images of several data sets, shuffled together: AdaCLIP learns from an industrial and a medical one.

    Every part keeps its own options: its ``train_split``, its classes, draws, mosaics and augmentation. A model that
    was trained so was trained on each of them, and is refused a test on any. There is nothing to test here: a benchmark
    is tested on its own.

    Args:
        parts: The data modules, at least two; their batch sizes and workers do not matter.
        batch_size: Images per batch. In batches of one, images keep their masks where other parts have none (MVFA).
        num_workers: Worker processes.
        protocol: Size and normalisation for all parts; None takes the method's.

    Raises:
        ValueError: If there are fewer than two parts, or one is joined itself.
    """

    def __init__(
        self,
        parts: Sequence[BenchmarkDataModule],
        batch_size: int = 8,
        num_workers: int = 0,
        protocol: ImageProtocol | None = None,
    ) -> None:
        super().__init__(".", protocol=protocol, batch_size=batch_size, num_workers=num_workers)
        if len(parts) < 2 or any(isinstance(part, Joined) for part in parts):
            raise ValueError(f"Joined takes two or more plain data sets, got {[part.name for part in parts]}.")
        self.parts = list(parts)
        self.name = "+".join(part.name or type(part).__name__ for part in parts)

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records of all parts."""
        return itertools.chain.from_iterable(part.select(split) for part in self.parts)

    @property
    def class_names(self) -> list[str]:
        """Raw names of the classes of all parts, sorted."""
        return sorted({name for part in self.parts for name in part.class_names})

    @property
    def domain(self) -> str:
        """That of the parts if they agree, else ``"industrial"``."""
        domains = {part.domain for part in self.parts}
        return domains.pop() if len(domains) == 1 else "industrial"

    @property
    def has_masks(self) -> bool:
        """Whether every part has masks."""
        return all(part.has_masks for part in self.parts)

    def dataset(self, split: str = "test", training: bool = False) -> TrainingDataset:
        """Return the parts' data sets one after another; ``split`` is used where it is not for training."""
        protocol = self._protocol()
        key = (split, training, protocol)
        if key not in self._datasets:
            for part in self.parts:
                part.protocol = protocol
            parts = [part.dataset(part.train_split if training else split, training) for part in self.parts]
            self._datasets[key] = cast(
                TrainingDataset, JoinedDataset(parts, self.batch_size == 1)
            )  # all that loaders and fits ask of one
        return self._datasets[key]

    def setup(self, stage: str) -> None:
        """Read the lists of images.

        Raises:
            ValueError: If this is no training.
        """
        if stage != "fit":
            raise ValueError(f"Joined data ({self.name}) are for training; test each data set on its own.")
        super().setup(stage)

    def val_dataloader(self) -> list[BatchLoader]:
        """Return no loader: there is nothing to validate on."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: which data the model was trained on, part by part."""
        parts = [{"name": type(part).__name__, **part.state_dict()} for part in self.parts]
        return {"name": self.name, "root": "", "classes": None, "parts": parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: joined data are never tested on."""


class JoinedDataset(Dataset[Any]):
    """Training data sets one after another; a sample has a label or a mask only where every part knows them.

    Args:
        parts: All under the same protocol.
        mixed: Whether samples keep masks that other parts lack, as they may in batches of one image.
    """

    def __init__(self, parts: Sequence[TrainingDataset], mixed: bool = False) -> None:
        self.parts = list(parts)
        self.sizes = [len(part) for part in parts]
        self.protocol = parts[0].protocol
        self.tiles = next((part.tiles for part in parts if part.tiles is not None), None)
        self.has_labels = all(part.has_labels for part in parts)
        self.has_masks = all(part.has_masks for part in parts)
        self.skipped: list[Skipped] = []
        self._ends = list(itertools.accumulate(self.sizes))
        known = {"gt_label": self.has_labels, "gt_mask": self.has_masks or mixed}
        self._dropped = [key for key, everywhere in known.items() if not everywhere]

    @property
    def augment(self) -> Augment | None:
        """The first part's augmentation that there is; None says that images are the same every time."""
        return next((part.augment for part in self.parts if part.augment is not None), None)

    @property
    def stitch(self) -> float:
        """The greatest probability of a mosaic."""
        return max(part.stitch for part in self.parts)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        number = bisect_right(self._ends, index)
        sample = self.parts[number][index - self._ends[number] + self.sizes[number]]
        if isinstance(sample, dict):  # else it was skipped
            for key in self._dropped:
                sample.pop(key, None)
        return sample

    def start_worker(self, worker: int) -> None:
        """Prepare a loader's worker process, for each part."""
        if (info := get_worker_info()) is not None:
            for part in cast(JoinedDataset, info.dataset).parts:
                part._pixels = True  # pictures travel as bytes, see AnomalyDataset.start_worker
        self.seed_worker(worker)

    def seed_worker(self, worker: int) -> None:
        """Give the augmentations fresh random numbers."""
        for part in self.parts:
            part.seed_worker(worker)
