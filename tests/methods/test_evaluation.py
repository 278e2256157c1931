"""Scores that a rule of the whole class replaces, also where a process has seen no image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from zsad.methods.evaluation import Evaluation
from zsad.methods.vand import class_minmax
from zsad.metrics import Evaluator
from zsad.types import Batch, Prediction

SCORES, LABELS = torch.tensor([0.2, 0.9, 0.4, 0.3]), torch.tensor([0, 1, 1, 0])
PEAKS = torch.tensor([1.0, 3.0, 2.0, 1.5])


def evaluated(count: int) -> Evaluation:
    """An evaluation of the first images of one class, with VAND's rule."""
    evaluation = Evaluation(Evaluator("exact", metrics=["image_auroc"]), class_minmax)
    if count:
        batch: Batch = {
            "image": torch.zeros(count, 3, 2, 2),
            "class_name": ["nut"] * count,
            "image_path": [str(place) for place in range(count)],
            "gt_label": LABELS[:count],
        }
        evaluation.add(batch, Prediction(PEAKS[:count, None, None].expand(-1, 2, 2), SCORES[:count]))
    return evaluation


def worker(rank: int, store: str, out: str) -> None:
    """One process; the second has no image."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    value = evaluated(0 if rank else 4).compute().mean["image_auroc"]
    Path(f"{out}-{rank}").write_text(str(value), encoding="utf-8")
    dist.destroy_process_group()


def test_the_rule_sees_the_whole_class_and_its_scores_are_kept() -> None:
    evaluation = evaluated(4)
    assert evaluation.compute().mean["image_auroc"] == 1.0
    expected = 0.5 * (SCORES + (PEAKS - 1) / 2)
    assert [image.pred_score for image in evaluation.images] == pytest.approx(expected.tolist())
    assert evaluation.compute().mean["image_auroc"] == 1.0  # nothing is replaced twice


def test_a_process_without_an_image_keeps_nobody_waiting(tmp_path: Path) -> None:
    spawn(worker, args=(str(tmp_path / "store"), str(tmp_path / "value")), nprocs=2)
    assert [(tmp_path / f"value-{rank}").read_text(encoding="utf-8") for rank in (0, 1)] == ["1.0", "1.0"]
