"""What ``zsad predict`` writes: rows and raw maps, the same files however many processes made them."""

import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from zsad.cli.judging import Judge
from zsad.datamodules import BenchmarkDataModule
from zsad.datamodules.dataset import describe
from zsad.decision import Card
from zsad.methods import Batch, Prediction

Image = tuple[str, str]
"""Path, with the fragment of a part, and class."""


class MapWriter(BasePredictionWriter):
    """Write a JSON line and the raw map (.npy, at the model's size) of each image while predicting.

    Args:
        folder: Made if it does not exist; an earlier ``predictions.jsonl`` in it is replaced.
        card: Of the model, for labels, p-values and regions.
    """

    def __init__(self, folder: str | Path, card: Card | None = None) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
        self.judge = None if card is None else Judge(card)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a new file; each process of a distributed run has its own until all are done.

        Raises:
            CardError: The card is of another model, or lacks a class.
        """
        if self.judge is not None:
            self.judge.check(trainer, pl_module)
        (self.folder / "maps").mkdir(parents=True, exist_ok=True)
        self._rows = self._rows_of(trainer, trainer.global_rank)
        self._rows.write_text("", encoding="utf-8")
        self._data: BenchmarkDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._names = map_names(self._images(), self._data.root)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make one file of the rows of all processes that write into this folder, in the order of the data."""
        trainer.strategy.barrier()
        if trainer.world_size == 1 or not trainer.is_global_zero:
            return
        order = {path: place for place, (path, _) in enumerate(self._images())}
        parts = [part for rank in range(trainer.world_size) if (part := self._rows_of(trainer, rank)).exists()]
        with ExitStack() as stack, (self.folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            rows = [stack.enter_context(part.open(encoding="utf-8")) for part in parts]
            file.writelines(heapq.merge(*rows, key=lambda row: order[json.loads(row)["path"]]))
        for part in parts:
            part.unlink()

    def _rows_of(self, trainer: Trainer, rank: int) -> Path:
        return self.folder / f"predictions{'' if trainer.world_size == 1 else f'-{rank}'}.jsonl"

    def _images(self) -> Iterator[Image]:
        return ((describe(record), record.class_name) for record in self._data.select("test"))

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Prediction,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the rows and maps of a batch."""
        with self._rows.open("a", encoding="utf-8") as file:
            for number, (path, name) in enumerate(zip(batch["image_path"], batch["class_name"], strict=True)):
                map_file = self._names.get((path, name)) or map_name((path, name), self._data.root)
                (self.folder / map_file).parent.mkdir(parents=True, exist_ok=True)
                np.save(self.folder / map_file, prediction.anomaly_map[number].float().cpu().numpy())
                score = float(prediction.pred_score[number])
                row: dict[str, Any] = {"path": path, "class_name": name, "score": score, "map": map_file}
                row["warning"] = batch["warning"][number] if "warning" in batch else None
                if self.judge is not None:
                    judged = self.judge.of(path, name, score, prediction.anomaly_map[number])
                    doubts = filter(None, (row["warning"], judged["warning"]))
                    row |= judged | {"warning": " ".join(doubts) or None}
                if "tiles" in batch:
                    row["tiles"] = batch["tiles"]
                file.write(json.dumps(row) + "\n")


def map_name(image: Image, root: Path, number: int = 0) -> str:
    """Return where the map of an image goes: its path below the data, by which ``zsad evaluate`` finds its mask.

    Args:
        image: Of the data.
        root: Of the data.
        number: Of the image among those whose maps would have the same name: parts of a file, or two formats.
    """
    path, class_name = Path(image[0]), image[1]
    below = path.relative_to(root) if path.is_relative_to(root) else Path(class_name, path.name)
    file = Path("maps", *(part for part in below.with_suffix("").parts if part not in ("..", "/")))
    return f"{file.as_posix()}{f'-{number}' if number else ''}.npy"


def map_names(images: Iterable[Image], root: Path) -> dict[Image, str]:
    """Return the names of those maps that need a number, counted in the order of the data: in every process alike."""
    sharing: dict[str, dict[Image, None]] = {}
    for image in images:
        sharing.setdefault(map_name(image, root), {})[image] = None
    names: dict[Image, str] = {}
    for first, *others in sharing.values():
        numbered = (map_name(first, root, number) for number in itertools.count(1))
        names |= zip(others, (name for name in numbered if name not in sharing), strict=False)
    return names
