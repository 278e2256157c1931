"""What ``zsad test --out`` writes: a result with all it came from, a score per image, pictures."""

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer

from zsad.benchmark.grid import safe_name, write_json
from zsad.benchmark.pictures import save_pictures
from zsad.benchmark.run import git_commit, versions
from zsad.datamodules import BenchmarkDataModule
from zsad.datamodules.dataset import describe
from zsad.images.cells import write_cells
from zsad.methods import Method
from zsad.methods.evaluation import ScoredImage
from zsad.metrics.result import EvaluationResult


def everyones(mine: Sequence[ScoredImage], data: BenchmarkDataModule) -> list[ScoredImage]:
    """Return the images that all processes have scored, in the order of the data; every process must call it."""
    parts = [mine]
    if dist.is_available() and dist.is_initialized():
        parts = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, list(mine))
    order = {describe(record): place for place, record in enumerate(data.select("test"))}
    return sorted((one for part in parts for one in part), key=lambda one: order[one.image_path])


def write_test(
    folder: Path,
    trainer: Trainer,
    method: Method,
    data: BenchmarkDataModule,
    found: EvaluationResult,
    images: Sequence[ScoredImage],
) -> Path:
    """Write ``result.json``, ``images.csv`` and, per class with masks, pictures; return the result's path.

    Args:
        folder: Made if it does not exist.
        trainer: That ran the test.
        method: Tested.
        data: Tested on.
        found: Its metrics.
        images: Of all processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(one.image_path, one.class_name, one.gt_label, one.pred_score) for one in images]
        write_cells(file, [("path", "class_name", "label", "score"), *rows])
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    result: dict[str, Any] = {
        "method": type(method).__name__,
        "data": {"name": data.name or type(data).__name__, "root": str(data.root), "classes": data.class_names},
        **found.to_dict(),
        "mean": dict(found.mean),
        "images": [[one.image_path, one.gt_label, one.pred_score] for one in images],
        "protocol": asdict(method.protocol),
        "tiles": None if data.tiles is None else data.tiles.identity(),
        "hyper_parameters": {key: value for key, value in method.hparams.items() if isinstance(value, plain)},
        "backbone": {"name": method.clip.name, "position": method.clip.position},
        "trained_on": getattr(method, "trained_on", None),
        "precision": str(trainer.precision),
        "device": str(method.device),
        "processes": trainer.world_size,
        "versions": versions(),
        "git": git_commit(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    write_json(folder / "result.json", result)
    if data.has_masks:
        save_pictures(method, data, folder / "pictures" / safe_name(data.name or "data"), method.device)
    return folder / "result.json"
