"""Training in several processes (gloo, CPU): gradients are those of the joint batch, features come by shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset, Subset

from tests.methods.test_trained import Calls, Module, Pieces
from zsad.clip import Clip
from zsad.methods import AACLIP, VAND, AnomalyCLIP
from zsad.methods.trained import TrainedMethod

ALONE = {"vv_axis": "token", "augment_p": 0.0}
"""The released code lets an image attend to the others of its batch, which differ between one and two processes."""

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*logging interval")


class Some(Module):
    """The first images, in batches of a given size."""

    def __init__(self, images: int, batch_size: int) -> None:
        super().__init__()
        self.some: Dataset[Any] = Subset(self.pieces, range(images))
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.some, batch_size=self.batch_size, shuffle=True)


class Gradients(Callback):
    """Keeps the gradients of the first step in a file, with the number of images that this process's tower saw."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: Calls | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, TrainedMethod)
        self.calls = Calls(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        path = self.path.with_suffix(f".{trainer.global_rank}.pt")
        if path.exists():
            return
        found = {name: one.grad.clone() for name, one in pl_module.named_parameters() if one.grad is not None}
        torch.save(found, path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.calls is not None
        self.path.with_suffix(f".{trainer.global_rank}.txt").write_text(str(self.calls.images))


def fit(model: TrainedMethod, path: Path, processes: int, data: Module, **options: Any) -> list[Any]:
    """The gradients of each process's first step."""
    several: dict[str, Any] = {"devices": processes, "strategy": "ddp_fork"} if processes > 1 else {}
    Trainer(
        accelerator="cpu", default_root_dir=path.parent, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[Gradients(path)], **several, **options,
    ).fit(model, data)  # fmt: skip
    return [torch.load(path.with_suffix(f".{rank}.pt"), weights_only=True) for rank in range(processes)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (AnomalyCLIP, {}),
        (VAND, {}),
        (AACLIP, {"stage": "image", "anchors": "plain", **ALONE}),
    ],
    ids=["AnomalyCLIP", "VAND", "AACLIP image"],
)
def test_gradients_are_those_of_the_joint_batch(
    tiny: Clip, tmp_path: Path, kind: type[TrainedMethod], options: dict[str, Any]
) -> None:
    found = []
    for processes in (1, 2):
        torch.manual_seed(0)
        model = kind(tiny, cache="off", **options)
        data = Some(8, 8 // processes)
        found.append(fit(model, tmp_path / f"of{processes}.x", processes, data, max_steps=1))
    (alone,), (first, second) = found
    assert alone
    assert first.keys() == second.keys() == alone.keys()
    for name, gradient in alone.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert torch.equal(first[name], second[name]), "the processes would drift apart"
        torch.testing.assert_close(first[name] / scale, gradient / scale, atol=1e-6, rtol=1e-5)
    assert any(gradient.abs().max() > 1e-4 for gradient in alone.values())


@pytest.mark.parametrize("processes", [2, 3])
def test_features_are_computed_by_shares_and_once(tiny: Clip, tmp_path: Path, processes: int) -> None:
    path = tmp_path / "run.x"
    model = AnomalyCLIP(tiny, cache_dir=str(tmp_path / "cache"))
    fit(model, path, processes, Module(), max_epochs=2)  # ten images: not even
    seen = [int(path.with_suffix(f".{rank}.txt").read_text()) for rank in range(processes)]
    assert sum(seen) == len(Pieces())
    assert max(seen) - min(seen) <= 1
