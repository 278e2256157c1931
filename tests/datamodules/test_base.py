from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from zsad.datamodules import (
    DATAMODULES,
    DatasetCountError,
    DatasetNotFoundError,
    DataWarning,
    MVTecAD,
    SameSourceError,
    VisA,
    check_pair,
    get_datamodule,
    list_datamodules,
)
from zsad.datamodules.base import batches
from zsad.datamodules.facts import all_facts
from zsad.types import ImageProtocol

PROTOCOL = ImageProtocol(size=28)


class Watcher(pl.LightningModule):
    """Notes what it is given."""

    def __init__(self, protocol: ImageProtocol = PROTOCOL) -> None:
        super().__init__()
        self.protocol = protocol
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[str] = []
        self.validated = 0

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.seen += batch["image_path"]
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated += len(batch["image_path"])

    def test_step(self, batch: Any, index: int) -> None:
        assert batch["image"].shape[-1] == self.protocol.size
        self.seen += batch["image_path"]

    predict_step = test_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=folder, max_epochs=1, enable_model_summary=False, **quiet, **options)


def test_registry() -> None:
    assert list_datamodules() == list(DATAMODULES)
    assert get_datamodule("MVTecAD") is get_datamodule("mvtec_ad") is MVTecAD
    with pytest.raises(ValueError, match=r"Unknown data set 'mvtec'; known, nearest first: mvtec_ad, "):
        get_datamodule("mvtec")
    for key, kind in DATAMODULES.items():
        assert kind.name == key


@pytest.mark.parametrize("key", all_facts())
def test_facts_add_up(key: str) -> None:
    facts = all_facts()[key]
    assert DATAMODULES[key].__name__ == facts.datamodule
    per_class = [facts.counts[name] for name in facts.classes if name in facts.counts]
    if per_class and "*" in facts.counts:
        assert tuple(map(sum, zip(*per_class, strict=True))) == facts.counts["*"]


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_with_a_trainer(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree()
    data = MVTecAD(tmp_path, counts="ignore", batch_size=4)
    module = Watcher()
    assert data.class_names == sorted(all_facts()["mvtec_ad"].classes)
    trainer(tmp_path).test(module, data, verbose=False)
    assert module.seen == [str(record.image_path) for record in data.select()]
    assert len(module.seen) == 18
    assert data.class_names == ["bottle", "grid"]
    module = Watcher()
    trainer(tmp_path).predict(module, data)
    assert len(module.seen) == 18
    module = Watcher()
    trainer(tmp_path, enable_checkpointing=False).fit(module, MVTecAD(tmp_path, counts="ignore"))
    assert len(set(module.seen)) == 18
    assert module.validated == 0
    trainer(tmp_path).validate(module, MVTecAD(tmp_path, counts="ignore"), verbose=False)
    assert module.validated == 18


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_protocol_comes_from_the_argument_then_the_method_then_the_default(
    mvtec_tree: Callable[..., None], tmp_path: Path
) -> None:
    mvtec_tree()
    data = MVTecAD(tmp_path, counts="ignore")
    assert data.dataset().protocol == ImageProtocol()
    trainer(tmp_path, limit_test_batches=1).test(Watcher(), data, verbose=False)
    given = MVTecAD(tmp_path, counts="ignore", protocol=ImageProtocol(size=42))
    assert next(batches(given))["image"].shape == (8, 3, 42, 42)
    tall = MVTecAD(tmp_path, counts="ignore", protocol=ImageProtocol(size=42, resize="short_side"))
    assert next(batches(tall))["image"].shape == (1, 3, 42, 56)


def test_classes_and_prompt_names(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree(classes=("bottle", "metal_nut"))
    data = MVTecAD(tmp_path, classes=["metal_nut"], counts="ignore", prompt_names="readable")
    assert {record.class_name for record in data.select()} == {"metal_nut"}
    assert data.prompt_names == {"metal_nut": "metal nut"}
    assert MVTecAD(tmp_path, classes=["bottle", "metal_nut"], prompt_names={"bottle": "flask"}).prompt_names == {
        "bottle": "flask",
        "metal_nut": "metal_nut",
    }
    with pytest.raises(ValueError, match=r"MVTec AD has no class 'metalnut'; nearest: \['metal_nut'\]"):
        MVTecAD(tmp_path, classes=["metalnut"])
    with pytest.raises(DatasetNotFoundError, match=r"no images of the part 'test' of class \['screw'\]"):
        MVTecAD(tmp_path, classes=["screw"]).setup("test")


def test_counts(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree()
    with pytest.warns(DataWarning, match=r"bottle: expected 20 \+ 63, found 3 \+ 6;.*cable: expected 58 \+ 92"):
        MVTecAD(tmp_path).setup("test")
    with pytest.raises(DatasetCountError, match=r"bottle: expected 20 \+ 63, found 3 \+ 6"):
        MVTecAD(tmp_path, counts="error", classes=["bottle"]).setup("test")
    MVTecAD(tmp_path, counts="ignore").setup("test")

    class Small(MVTecAD):
        def expected_counts(self) -> dict[str, tuple[int, int]]:
            return {"bottle": (3, 6), "grid": (3, 6)}

    Small(tmp_path, counts="error").setup("test")


def test_missing_root_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"(?s)MVTec AD.*does not exist.*ground_truth.*CC BY-NC.*To get it"):
        MVTecAD(tmp_path / "gone").setup("test")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"counts": "maybe"}, "counts must be 'error', 'warn' or 'ignore', got 'maybe'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"mask_threshold": 255}, r"grey level in 0\.\.254, got 255"),
    ],
)
def test_bad_options_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MVTecAD("x", **option)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_source_and_target_must_differ(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree()
    data = MVTecAD(tmp_path, counts="ignore")
    with pytest.raises(SameSourceError, match="trained on mvtec_ad"):
        check_pair(data, MVTecAD("elsewhere"))
    check_pair(data, VisA(tmp_path))
    check_pair(data, data, allow=True)
    fitting = trainer(tmp_path)
    fitting.fit(Watcher(), data)
    path = tmp_path / "model.ckpt"
    fitting.save_checkpoint(path)
    with pytest.raises(SameSourceError, match="not a zero-shot result"):
        trainer(tmp_path).test(Watcher(), MVTecAD(tmp_path, counts="ignore"), ckpt_path=path, verbose=False)
    allowed = MVTecAD(tmp_path, counts="ignore", allow_same=True)
    trainer(tmp_path).test(Watcher(), allowed, ckpt_path=path, verbose=False)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_a_broken_file_stops_the_run_or_is_listed(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree()
    broken = tmp_path / "grid" / "test" / "bent" / "001.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"grid/test/bent/001\.png"):
        trainer(tmp_path).test(Watcher(), MVTecAD(tmp_path, counts="ignore"), verbose=False)
    data, module = MVTecAD(tmp_path, counts="ignore", on_error="skip"), Watcher()
    with pytest.warns(DataWarning, match=r"Skipped '.*001\.png'|1 unreadable"):
        trainer(tmp_path).test(module, data, verbose=False)
    assert len(module.seen) == 17
    assert [one.image_path for one in data.skipped] == [str(broken)]
