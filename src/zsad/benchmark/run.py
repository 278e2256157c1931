"""Running the grid: cell by cell, resumable after a kill at any moment, one JSON file each with all it came from."""

import datetime
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zsad.benchmark.circumstances import git_commit, peak_memory_mb, versions
from zsad.benchmark.grid import Cell, DataSpec, MethodSpec, write_json
from zsad.benchmark.identity import Identities, differences, plain, refuse_stale
from zsad.benchmark.logs import log_to
from zsad.benchmark.models import Models
from zsad.benchmark.options import Options
from zsad.benchmark.pictures import save_pictures
from zsad.benchmark.results import read_cell
from zsad.benchmark.train import TrainingDataError
from zsad.datamodules import BenchmarkDataModule, Record
from zsad.datamodules.base import batches
from zsad.inference import find_device
from zsad.inference.files import sha256
from zsad.methods import Method
from zsad.methods.aaclip.fusion import FUSION, fused_scores
from zsad.methods.evaluation import Evaluation
from zsad.metrics import DEFAULT_METRICS, Evaluator
from zsad.weights.files import disk_error, is_full

METRICS = (*DEFAULT_METRICS, "aupro_200step")
SCHEMA = 2


def cells_of(methods: Sequence[MethodSpec], data: Sequence[DataSpec], seeds: Sequence[int]) -> list[Cell]:
    """Return the grid, method by method, so that each model is built and trained once; unseeded methods run once."""
    classes: dict[str, Sequence[str]] = {}
    for one in data:
        if one.parts:
            raise ValueError(f"Joined data ({one.label}) are for --train; give each data set to --data on its own.")
        module = one.build()
        module.select("test")
        classes[one.label] = module.class_names
    cells = [
        Cell(method, one, class_name, seed)
        for method in methods
        for seed in (seeds if method.seeded else seeds[:1])
        for one in data
        for class_name in classes[one.label]
    ]
    places: dict[Path, Cell] = {}
    for cell in cells:
        if places.setdefault(cell.path(Path()), cell) != cell:
            raise ValueError(
                f"Two different things have the name '{cell.method.label}' on '{cell.data.label}': their results would "
                f"lie in one place. Give them in two runs, with an --out each, or rename a folder or configuration."
            )
    return list(places.values())


def is_done(path: Path, retry_failed: bool) -> bool:
    """Whether a cell has a result; an error counts unless it should be tried again."""
    if not path.is_file():
        return False
    return not (retry_failed and "error" in json.loads(path.read_text(encoding="utf-8")))


@dataclass
class Runner:
    """Computes cells and keeps the last model between them.

    Args:
        options: How.
    """

    options: Options
    identities: Identities = field(init=False)
    models: Models = field(init=False)

    def __post_init__(self) -> None:
        self.identities = Identities(self._run(), self.options.train)
        self.models = Models(self.options, self.identities)

    def check(self, cells: Sequence[Cell]) -> None:
        """See that no result is there that was made from something else.

        Raises:
            StaleCellError: With what differs; a result that is an error loses nothing and is computed again instead.
        """
        for cell in cells:
            path = cell.path(self.options.out)
            if path.is_file() and "error" not in (kept := read_cell(path)):
                refuse_stale(path, kept, self.identities.of(cell))

    def _is_done(self, cell: Cell) -> bool:
        path = cell.path(self.options.out)
        if not is_done(path, self.options.retry_failed):
            return False
        kept = read_cell(path)
        return "error" not in kept or not differences(kept.get("identity"), plain(self.identities.of(cell)))

    def run(self, cells: Sequence[Cell], tell: Callable[[Cell, str], None] = lambda cell, outcome: None) -> int:
        """Compute the cells that have no result yet; return how many ended in an error.

        Args:
            cells: The grid.
            tell: Called after each cell with ``"done"``, ``"kept"`` or the error.
        """
        self.check(cells)
        failed = 0
        for cell in cells:
            path = cell.path(self.options.out)
            if self._is_done(cell):
                tell(cell, "kept")
                continue
            outcome = "done"
            with log_to(cell.log_path(self.options.out)):
                try:
                    result = self.compute(cell)
                except Exception as error:  # a failing cell becomes a row with its error, and the rest goes on
                    if isinstance(error, OSError) and is_full(error):  # there is no room for that row either
                        raise disk_error(error, path) from error
                    logging.getLogger("zsad").exception("cell failed")
                    outcome = f"{type(error).__name__}: {error}"
                    result = {**self.identity(cell), "error": outcome, "trace": traceback.format_exc()}
                    failed += 1
            write_json(path, result)
            tell(cell, outcome)
        return failed

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell is, as it stands in its file."""
        options = self.options
        return {
            "schema": SCHEMA,
            "method": cell.method.identity(),
            "data": {
                "label": cell.data.label,
                "name": cell.data.name,
                "options": {k: str(v) if isinstance(v, Path) else v for k, v in cell.data.options.items()},
            },
            "class": cell.class_name,
            "seed": cell.seed,
            "run": {**self._run(), "train": [one.identity() for one in options.train]},
            "identity": plain(self.identities.of(cell)),
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }

    def _run(self) -> dict[str, Any]:
        """Return the options that decide numbers."""
        names = ("backbone", "epochs", "mode", "precision", "batch_size", "bootstrap", "fuse")
        return {name: getattr(self.options, name) for name in names}

    def compute(self, cell: Cell) -> dict[str, Any]:
        """Return the result of a cell: values in [0, 1] with bounds, and everything that they came from."""
        started = time.perf_counter()
        device = find_device(self.options.device)
        method, weights = self.models.of(cell, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        data = self._data(cell, method)
        drawing = self._draw(method, data, device)  # before the evaluator: references may widen the range of the maps
        evaluation, seconds = self._evaluated(method, data, device)
        if method.transductive:  # the panel is made of the scored images: its making is part of their time
            seconds += drawing
        found = evaluation.compute().to_dict()
        if evaluation.rule is not None:  # drawn from other scores than these
            found["intervals"] = {
                class_name: {key: ends for key, ends in intervals.items() if not key.startswith("image_")}
                for class_name, intervals in found["intervals"].items()
            }
        if cell.seed == 0 and data.has_masks:
            save_pictures(method, data, cell.picture_path(self.options.out), device)
        name, images = cell.class_name, evaluation.images
        return {
            **self.identity(cell),
            "metrics": found["per_class"][name],
            "bounds": found["bounds"].get(name, {}),
            "intervals": found["intervals"].get(name, {}),
            "counts": found["counts"][name],
            "images": [[image.image_path, image.gt_label, image.pred_score] for image in images],
            "defects": _defects(data.select("test"), [image.image_path for image in images]),
            "transductive": method.transductive,
            "skipped": [str(one) for one in data.skipped],
            "protocol": asdict(method.protocol),
            "hyper_parameters": {key: value for key, value in method.hparams.items() if _is_plain(value)},
            **self._provenance(method, weights, device),
            "wall_s": time.perf_counter() - started,
            "images_per_s": len(images) / seconds if seconds else None,
            "peak_memory_mb": peak_memory_mb(device),
        }

    def _data(self, cell: Cell, method: Method) -> BenchmarkDataModule:
        """Return the class of a cell, as the method wants its images."""
        options = self.options
        data = cell.data.build(
            classes=[cell.class_name], batch_size=options.batch_size, num_workers=options.num_workers, counts="ignore"
        )
        data.protocol = method.protocol
        method.forget_text()
        return data

    def _draw(self, method: Method, data: BenchmarkDataModule, device: torch.device) -> float:
        """Draw references or a panel, computed as the images will be; return the seconds that took."""
        before = time.perf_counter()
        method.draw_references(data)
        return time.perf_counter() - before

    def _evaluated(self, method: Method, data: BenchmarkDataModule, device: torch.device) -> tuple[Evaluation, float]:
        """Return the evaluation of a class, and the seconds that the method took for it."""
        options = self.options
        evaluator = Evaluator(options.mode, method.score_range, METRICS, bootstrap=options.bootstrap)
        evaluator.to(device)
        if options.fuse:
            evaluation = Evaluation(evaluator, partial(fused_scores, weights=FUSION[data.domain]), by_maxima=False)
        else:
            evaluation = Evaluation(evaluator, method.class_rule())
        seconds = 0.0
        for batch in batches(data):
            method.refuse_references(batch["image"], batch["image_path"])
            image = batch["image"].to(device)
            before = time.perf_counter()
            with torch.inference_mode():
                prediction = method(image, batch["class_name"], batch["image_path"])
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds += time.perf_counter() - before
            evaluation.add(batch, prediction)
        return evaluation, seconds

    def _provenance(self, method: Method, weights: Path | None, device: torch.device) -> dict[str, Any]:
        """Return what a result came from besides its options: weights, device, versions."""
        learned = None
        if weights is not None:
            on = getattr(method, "trained_on", None)
            learned = {"file": weights.name, "sha256": sha256(weights), "on": on}
        return {
            "backbone": {
                "name": method.clip.name,
                "position": method.clip.position,
                "sha256": self.models.backbone_hash(method),
            },
            "trained": learned,
            "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "git": git_commit(),
        }


def _defects(records: Iterable[Record], paths: Sequence[str]) -> list[str]:
    """Return the kind of defect of each image."""
    kinds = {str(record.image_path): record.defect for record in records}
    return [kinds.get(path, "") for path in paths]


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, list, tuple, dict, type(None)))


__all__ = ["METRICS", "Options", "Runner", "TrainingDataError", "cells_of", "git_commit", "is_done", "versions"]
