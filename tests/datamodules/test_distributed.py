"""Two processes on one machine, through Lightning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from zsad.datamodules import MVTecAD
from zsad.types import ImageProtocol


class Counter(pl.LightningModule):
    """Writes down which images each process saw."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[str] = []

    def test_step(self, batch: Any, index: int) -> None:
        self.seen += batch["image_path"]

    def on_test_epoch_end(self) -> None:
        (self.folder / f"rank{self.global_rank}.txt").write_text("\n".join(self.seen))


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_every_image_once_under_two_processes(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree(classes=("bottle",), defects=("bent", "cut"))  # 9 images: not even
    data = MVTecAD(tmp_path, counts="ignore", protocol=ImageProtocol(size=14), batch_size=2)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.test(Counter(tmp_path), data, verbose=False)
    seen = [(tmp_path / f"rank{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert sorted(map(len, seen)) == [4, 5]
    assert sorted(seen[0] + seen[1]) == sorted(str(record.image_path) for record in data.select())
