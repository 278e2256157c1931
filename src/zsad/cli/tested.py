"""What ``zsad test --out`` writes: a result with all it came from, a score per image, pictures."""

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from zsad.benchmark.grid import safe_name, write_json
from zsad.benchmark.pictures import save_pictures
from zsad.benchmark.run import git_commit, versions
from zsad.datamodules import BenchmarkDataModule
from zsad.methods import Method
from zsad.metrics.result import EvaluationResult
from zsad.report.cells import write_cells


def write_test(
    folder: Path, trainer: Trainer, method: Method, data: BenchmarkDataModule, found: EvaluationResult
) -> Path:
    """Write ``result.json``, ``images.csv`` and, per class with masks, pictures; return the result's path.

    Args:
        folder: Made if it does not exist.
        trainer: That ran the test.
        method: Tested.
        data: Tested on.
        found: Its metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = method.evaluation.images
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
