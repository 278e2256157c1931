"""What each of two processes does in ``test_distributed``; imports little, since every process imports it anew."""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.metrics.scenes import images
from zsad.metrics import AUPRO, AUROC, Evaluator, RepeatedImageWarning

IMAGES = 13
SETTINGS: list[dict[str, Any]] = [{"mode": "exact"}, {"mode": "binned", "score_range": (0.0, 1.0), "bits": 16}]
STATES = ("n_positive", "n_pixel", "weight", "low_score", "high_score", "n_regions", "clamped")


def add(evaluator: Evaluator, items: list[Any], paths: list[str]) -> None:
    for (name, score, label, one, mask), path in zip(items, paths, strict=True):
        evaluator.update([name], torch.tensor([score]), torch.tensor([label]), one[None], mask[None], [path])


def data() -> list[Any]:
    """13 images; the second process sees no 'zipper' and meets the other classes in another order."""
    items = images()
    first = [item for item in items if item[0] == "zipper"] + [item for item in items if item[0] == "pill"][:2]
    second = [item for item in items if item[0] == "metal.nut"] + [item for item in items if item[0] == "pill"][2:]
    return [*first[:7], *second[:6]]


def parts() -> list[list[int]]:
    return [list(range(8)), list(range(12, 7, -1))]


def evaluate(indices: list[int], settings: dict[str, Any]) -> Evaluator:
    evaluator = Evaluator(bootstrap=20, **settings)
    items = data()
    add(evaluator, [items[i] for i in indices], [f"{i}.png" for i in indices])
    return evaluator


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for settings in SETTINGS:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RepeatedImageWarning)
            evaluator = evaluate(parts()[rank], settings)
            found[f"{settings['mode']} result"] = evaluator.compute().to_dict()
            found[f"{settings['mode']} again"] = evaluator.compute().to_dict()  # synchronising changed no state
        if settings["mode"] == "binned":
            pixels = evaluator._state("pill", torch.device("cpu")).pixels
            with pixels.sync_context():
                found["states"] = {name: getattr(pixels, name).clone() for name in STATES}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate([0, 1] if rank else [0, 2, 3], SETTINGS[0]).compute()
    found["repeated"] = [str(w.message) for w in caught if w.category is RepeatedImageWarning]
    metric = AUROC(mode="exact")
    if rank:  # the other process has seen nothing, and this one holds float64
        metric.update(torch.tensor([0.1, 0.1 + 1e-12], dtype=torch.float64), torch.tensor([0, 1]))
    overlap = AUPRO()
    if rank:
        overlap.update(torch.tensor([[0.1, 0.9]]), torch.tensor([[0, 1]]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # compute before update, on the empty process
        found["metrics"] = (metric.compute().item(), overlap.compute().item())
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
