"""What all benchmarks share: finding the data, checking counts, choosing images, loaders."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import distributed

from zsad.datamodules.checks import DatasetNotFoundError, SameSourceError, check_classes, check_counts, not_there
from zsad.datamodules.dataset import Augment, BatchLoader, DataWarning, Skipped, collate
from zsad.datamodules.facts import Counts, Facts, all_facts
from zsad.datamodules.layout import child, folders_in
from zsad.datamodules.records import PackedRecords
from zsad.datamodules.sampler import UnpaddedDistributedSampler
from zsad.datamodules.training import TrainingDataset, draw_shots, load_augment
from zsad.images.levels import DEFAULT, ReadOptions
from zsad.images.tiling import Tiles
from zsad.types import Batch, ImageProtocol, Record
from zsad.weights.checkpoints import CheckpointError


class BenchmarkDataModule(LightningDataModule, ABC):
    """Images of a data set as batches; a child says where its files are (:meth:`records`).

    Auxiliary training of the zero-shot methods reads the *test* part of another data set (normal and anomalous images
    with masks), hence ``train_split="test"``. Evaluation runs in sorted order, every image once however many processes
    there are. While fitting, validation is off unless ``val_split`` is given.

    Args:
        root: Folder of the data; the folder above it will do as well.
        classes: Use only these classes (a number stands for its text).
        protocol: Size and normalisation of the tensors; None takes the method's when a Trainer runs, else the default
            of :class:`~zsad.types.ImageProtocol`.
        batch_size: Images per batch; always 1 under ``resize="short_side"``, as images differ in size then. With
            ``tiles``, tiles of one image per pass.
        num_workers: Worker processes per loader.
        counts: What to do if the numbers of test images are not those of the papers.
        mask_threshold: Grey level in 0..254 above which a pixel of a mask file is marked; 0 is the published rule.
        train_split: Part of the data to train on.
        val_split: Part to validate on; None: the test part for ``validate``, nothing while fitting.
        shots: Train on this many images per class; None for all.
        shot_draw: ``"any"`` draws them from all images of the class, ``"balanced"`` half (rounded up) from its
            anomalous and the rest from its normal images.
        seed: Decides the draw, per class.
        stitch: Probability that a training image is replaced by a 2 x 2 mosaic of four random images of its class
            (VAND uses 0.2 on MVTec AD).
        fixed_views: Train on eleven fixed views of every image (MVFA's few-shot training).
        augment: An albumentations pipeline for training, or the path of one saved as YAML or JSON.
        prompt_names: Word for each class in prompts: ``"raw"`` as the benchmark spells it, ``"readable"`` as we
            suggest, or a mapping for some classes (others stay raw).
        on_error: ``"skip"`` goes on after an unreadable file and lists it in :attr:`skipped`.
        allow_same: Permit a checkpoint trained on this data set to be tested on it.
        window: Grey levels that become black and white in pictures of more than 8 bits and of floats; masks stay.
        bits: Another way to say it: 12 stands for the window from 0 to 4095.
        max_pixels: A picture of more is refused before it is decoded.
        tiles: How large images are cut for validation, test and prediction; masks and maps have then the resolution
            that a tile has for the model. Training takes whole images.

    Raises:
        DatasetNotFoundError: On first use, if nothing is found.
        DatasetCountError: On first use, with ``counts="error"``.
    """

    name: str = ""
    dataset_class: type[TrainingDataset] = TrainingDataset
    """Key in the registry and in ``datasets.yaml``."""

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str | int] | None = None,
        protocol: ImageProtocol | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        counts: Literal["error", "warn", "ignore"] = "warn",
        mask_threshold: int = 0,
        train_split: str = "test",
        val_split: str | None = None,
        shots: int | None = None,
        shot_draw: Literal["any", "balanced"] = "any",
        seed: int = 0,
        stitch: float = 0.0,
        fixed_views: bool = False,
        augment: Callable[..., dict[str, Any]] | str | Path | None = None,
        prompt_names: Mapping[str, str] | Literal["raw", "readable"] = "raw",
        on_error: Literal["raise", "skip"] = "raise",
        allow_same: bool = False,
        window: tuple[float, float] | None = None,
        bits: int | None = None,
        max_pixels: int = DEFAULT.max_pixels,
        tiles: Tiles | None = None,
    ) -> None:
        super().__init__()
        if counts not in ("error", "warn", "ignore"):
            raise ValueError(f"counts must be 'error', 'warn' or 'ignore', got {counts!r}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if not 0 <= mask_threshold <= 254:
            raise ValueError(f"mask_threshold must be a grey level in 0..254, got {mask_threshold}.")
        self.root = Path(root).expanduser()
        self.classes = None if classes is None else tuple(map(self.spell_class, classes))
        self.protocol = protocol
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.counts = counts
        self.mask_threshold = mask_threshold
        self.train_split = train_split
        self.val_split = val_split
        self.shots = shots
        self.shot_draw = shot_draw
        self.seed = seed
        self.stitch = stitch
        self.fixed_views = fixed_views
        self.augment: Augment | None = load_augment(augment)
        self.on_error = on_error
        self.allow_same = allow_same
        self.tiles = tiles
        self.reading = ReadOptions(None if window is None else (window[0], window[1]), bits, max_pixels)
        self._prompt_names = prompt_names
        self._records: dict[str, PackedRecords] = {}
        self._datasets: dict[tuple[str, bool, ImageProtocol], TrainingDataset] = {}
        check_classes(self.classes, self.facts)

    @abstractmethod
    def records(self, split: str) -> Iterable[Record]:
        """Yield all records of a part of the data in any order; the base sorts, selects and counts them.

        Raises:
            DatasetNotFoundError: Nothing is there; :meth:`missing` words it.
        """

    # What a child may change

    @property
    def facts(self) -> Facts | None:
        """What is known about the data set; None for a user's own."""
        return all_facts().get(self.name)

    def expected_counts(self) -> Counts:
        """Return the numbers of test images to expect, per class and under ``"*"`` in all; empty if unknown."""
        return dict(self.facts.counts) if self.facts else {}

    def spell_class(self, name: object) -> str:
        """Return a class name that a user gave as the benchmark spells it."""
        return str(name)

    # What there is

    @property
    def class_names(self) -> list[str]:
        """Raw names of the classes in use, sorted: those found once the data were read, else the known ones."""
        if (found := self._records.get("test")) is not None or (found := next(iter(self._records.values()), None)):
            return found.class_names()
        return sorted(self.classes or (self.facts.classes if self.facts else ()))

    @property
    def domain(self) -> str:
        """``"industrial"`` or ``"medical"``."""
        return self.facts.domain if self.facts else "industrial"

    @property
    def has_masks(self) -> bool:
        """Whether test batches carry ``gt_mask``."""
        return self.facts.has_masks if self.facts else self.dataset("test").has_masks

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that the papers report for it; empty for none, or for a user's own data."""
        return self.facts.metrics if self.facts else ()

    @property
    def prompt_names(self) -> dict[str, str]:
        """Class name -> word for it in prompts."""
        names = {name: name for name in self.class_names}
        if self._prompt_names == "raw":
            return names
        given = (self.facts.readable if self.facts else {}) if self._prompt_names == "readable" else self._prompt_names
        assert isinstance(given, Mapping)
        return names | {name: word for name, word in given.items() if name in names}

    @property
    def skipped(self) -> list[Skipped]:
        """The files that could not be read so far, with ``on_error="skip"``; each process knows its own."""
        return [one for dataset in self._datasets.values() for one in dataset.skipped]

    def select(self, split: str = "test") -> PackedRecords:
        """Return the sorted records of the chosen classes; the test part is counted on the first call.

        Raises:
            DatasetNotFoundError: Nothing is found, or nothing of a class that was asked for.
            DatasetCountError: With ``counts="error"``, the numbers differ from the papers'.
        """
        if split not in self._records:
            wanted = None if self.classes is None else set(self.classes)
            chosen = (one for one in self.records(split) if wanted is None or one.class_name in wanted)
            records = PackedRecords(chosen).sorted()
            found = set(records.class_names())
            if not found or (wanted is not None and wanted - found):
                names = sorted((wanted or set()) - found)
                raise self.missing(f"no images of the part '{split}'" + (f" of class {names}" if names else ""))
            if split == "test":
                check_counts(
                    records.tally(),
                    self.expected_counts(),
                    self.classes,
                    self.counts,
                    f"{self.facts.title if self.facts else self.name} under '{self.root}'",
                )
            self._records[split] = records
        return self._records[split]

    def dataset(self, split: str = "test", training: bool = False) -> TrainingDataset:
        """Return a part of the data as a map-style dataset, with the training options applied if ``training``."""
        protocol = self._protocol()
        if (split, training, protocol) not in self._datasets:
            records: Sequence[Record] = self.select(split)
            if training and self.shots is not None:
                records = PackedRecords(draw_shots(records, self.shots, self.seed, self.shot_draw))
            self._datasets[split, training, protocol] = self.dataset_class(
                records,
                protocol,
                mask_threshold=self.mask_threshold,
                masks=self.has_masks if self.facts else None,
                on_error=self.on_error,
                reading=self.reading,
                tiles=None if training else self.tiles,
                augment=self.augment if training else None,
                stitch=self.stitch if training else 0.0,
                views=training and self.fixed_views,
            )
        return self._datasets[split, training, protocol]

    # Lightning

    def setup(self, stage: str) -> None:
        """Read the lists of images that the stage needs, so that what is missing is said before work begins."""
        if stage == "fit":
            self.dataset(self.train_split, training=True)
        else:
            self.dataset((stage == "validate" and self.val_split) or "test")

    def train_dataloader(self) -> BatchLoader:
        """Return shuffled batches of ``train_split``."""
        return self._loader(self.dataset(self.train_split, training=True), shuffle=True)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return batches of ``val_split``; without one, of the test part, but no loader while fitting."""
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        if self.val_split is None and fitting:
            return []
        return self._loader(self.dataset(self.val_split or "test"))

    def test_dataloader(self) -> BatchLoader:
        """Return batches of the test part in sorted order."""
        return self._loader(self.dataset("test"))

    def predict_dataloader(self) -> BatchLoader:
        """Return batches of the test part in sorted order."""
        return self._loader(self.dataset("test"))

    def teardown(self, stage: str) -> None:
        """Say how many files were skipped."""
        if self.skipped:
            warnings.warn(f"{len(self.skipped)} unreadable file(s) were left out.", DataWarning, stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: which data the model was trained on."""
        return {"name": self.name, "root": str(self.root.absolute()), "classes": self.classes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained on the data it is about to be tested on.

        Raises:
            SameSourceError: Unless ``allow_same``, or training goes on.
        """
        testing = self.trainer is not None and self.trainer.state.fn in ("test", "validate")
        if testing and (self.facts is not None or state_dict.get("root") == str(self.root.absolute())):
            self._refuse_same(state_dict.get("name", ""))

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a data module is its root, and a file never says where to read.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError(f"Data modules are not restored from checkpoints: make {cls.__name__}(root) by hand.")

    def _refuse_same(self, source: str) -> None:
        if not self.allow_same:
            raise SameSourceError(
                f"The model was trained on {source or 'this data set'}, which is (part of) the data of {self.name} "
                "that it is to be tested on: not a zero-shot result. Train on another data set, or pass "
                "allow_same=True."
            )

    def _loader(self, dataset: TrainingDataset, shuffle: bool = False) -> BatchLoader:
        sampler = None
        if not shuffle and distributed.is_available() and distributed.is_initialized():
            sampler = UnpaddedDistributedSampler(dataset)
        return BatchLoader(
            dataset,
            batch_size=1 if dataset.protocol.resize == "short_side" or dataset.tiles is not None else self.batch_size,
            shuffle=shuffle,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            worker_init_fn=dataset.start_worker,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=shuffle and self.num_workers > 0,
        )

    def _protocol(self) -> ImageProtocol:
        if self.protocol is not None:
            return self.protocol
        method = self.trainer.lightning_module if self.trainer is not None else None
        return getattr(method, "protocol", None) or ImageProtocol()

    # Words and checks

    def missing(self, what: str) -> DatasetNotFoundError:
        """Return the error for data that are not there: what is missing, the layout, the source, the licence.

        Args:
            what: What was looked for and not found.
        """
        return not_there(what, self.root, self.facts, type(self).__name__)

    def places(self, *names: str) -> Iterator[Path]:
        """Yield the folders where the data may lie: those called ``names`` in the root or one level below, the root."""
        for folder in (self.root, *folders_in(self.root)):
            yield from (found for name in names if (found := child(folder, name)) is not None)
        yield self.root

    def locate(self, found: Callable[[Path], bool], what: str) -> Path:
        """Return the root, or the one folder directly below it, for which ``found`` holds.

        Raises:
            DatasetNotFoundError: There is none, or there are several below the root.
        """
        if self.root.is_dir() and found(self.root):
            return self.root
        below = [folder for folder in folders_in(self.root) if found(folder)]
        if len(below) == 1:
            return below[0]
        several = f"; {[folder.name for folder in below]} all fit, pass one of them as the root" if below else ""
        raise self.missing(f"{what} not found{several}")


def batches(datamodule: BenchmarkDataModule, split: str = "test") -> Iterator[Batch]:
    """Yield the batches of a part in sorted order, without a Trainer."""
    yield from datamodule._loader(datamodule.dataset(split))
