"""What every trained method gets: cached features, a reproducible order, resuming, and the memory of its data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.conftest import make_clip
from zsad.clip import Clip
from zsad.clip.token_cache import CachedSamples
from zsad.methods import VAND, AnomalyCLIP, CheckpointError, CoOp
from zsad.methods.provenance import SameDataError, describe_training
from zsad.methods.trained import TrainedMethod, UntrainedWarning

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning", "ignore:.*logging interval")


class Pieces(Dataset[Any]):
    """Ten labelled 32-pixel images of two classes; anomalous ones carry a bright square."""

    def __init__(self, augment: Any = None) -> None:
        self.augment = augment
        self.reads = 0

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        mask = torch.zeros(32, 32, dtype=torch.bool)
        if index % 2:
            mask[8:20, index : index + 10] = True
        image = torch.where(mask, image + 2, image)
        if self.augment:
            image = image + 0.1 * torch.randn(())
        path = f"{index}.png"
        return {
            "image": image,
            "gt_mask": mask,
            "gt_label": index % 2,
            "class_name": "ab"[index % 3 > 0],
            "image_path": path,
        }


class Module(LightningDataModule):
    """A data module as the library's are, for a data set that goes by a name."""

    facts: Any = object()
    allow_same = False

    def __init__(
        self, name: str = "pieces", classes: Sequence[str] | None = None, dataset: Pieces | None = None
    ) -> None:
        super().__init__()
        self.name, self.classes = name, classes
        self.pieces = dataset or Pieces()

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name, "root": "/data", "classes": self.classes}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.pieces, batch_size=4, shuffle=True)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.pieces, batch_size=5)


class Curve(Callback):
    """The loss of every step; raises after ``stop`` steps as a killed run would."""

    def __init__(self, stop: int | None = None) -> None:
        self.losses: list[float] = []
        self.stop = stop

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        if len(self.losses) == self.stop:
            raise RuntimeError("killed")


class Calls:
    """Counts the images that go through a method's tower."""

    def __init__(self, model: TrainedMethod) -> None:
        self.images = 0
        self.inner = model.frozen_features
        model.frozen_features = self  # type: ignore[method-assign]

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        self.images += len(image)
        return self.inner(image)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"max_epochs": 3, **options},
    )


def model(tiny: Clip, folder: Path, kind: type[TrainedMethod] = AnomalyCLIP, **options: Any) -> TrainedMethod:
    return kind(tiny, cache_dir=str(folder / "cache"), **options)


def fitted(tiny: Clip, folder: Path, data: Any = None, kind: type[TrainedMethod] = AnomalyCLIP, **options: Any) -> Any:
    """A model after three epochs, its losses and the number of images its tower saw."""
    made, curve = model(tiny, folder, kind, **options), Curve()
    calls = Calls(made)
    trainer(folder, curve).fit(made, data or Module())
    return made, curve.losses, calls.images


@pytest.mark.parametrize("kind", [AnomalyCLIP, CoOp, VAND])
def test_cached_training_is_uncached_training(tiny: Clip, tmp_path: Path, kind: type[TrainedMethod]) -> None:
    cached, losses, images = fitted(tiny, tmp_path, kind=kind)
    uncached, expected, all_images = fitted(tiny, tmp_path, kind=kind, cache="off")
    assert (images, all_images) == (10, 30)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert len(set(losses)) == len(losses) == 9
    for name, value in uncached.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[name], value, atol=1e-5, rtol=0)


def test_images_are_read_once_and_the_next_fit_runs_no_tower(tiny: Clip, tmp_path: Path) -> None:
    data = Module()
    fitted(tiny, tmp_path, data)
    assert data.pieces.reads == 10
    _, _, images = fitted(tiny, tmp_path, lr=1e-4)
    assert images == 0


def test_other_options_and_weights_have_other_features(tiny: Clip, tmp_path: Path) -> None:
    fitted(tiny, tmp_path)
    for changed in ({"feature_layers": [2, 4]}, {"dpam_attention": "qq"}, {"cache_dtype": "float16"}):
        assert fitted(tiny, tmp_path, **changed)[2] == 10
    assert fitted(make_clip(seed=5), tmp_path)[2] == 10
    assert fitted(make_clip(position="bilinear"), tmp_path)[2] == 10


def test_half_precision_features_train_alike(tiny: Clip, tmp_path: Path) -> None:
    assert fitted(tiny, tmp_path, cache_dtype="float16")[1] == pytest.approx(fitted(tiny, tmp_path)[1], abs=2e-3)


def test_a_bare_loader_needs_a_word_that_it_does_not_augment(
    tiny: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = [Pieces()[i] for i in range(10)]
    with caplog.at_level(logging.INFO):
        _, expected, images = fitted(tiny, tmp_path, DataLoader(plain, 4, shuffle=True))  # type: ignore[arg-type]
    assert images == 30
    assert "list does not declare that it gives the same image every time" in caplog.text
    _, losses, images = fitted(tiny, tmp_path, DataLoader(plain, 4, shuffle=True), cache="on")  # type: ignore[arg-type]
    assert images == 10
    assert losses == pytest.approx(expected, abs=1e-5)


def test_augmentation_turns_the_cache_off_and_says_so(
    tiny: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _, losses, images = fitted(tiny, tmp_path, Module(dataset=Pieces(augment=True)))
    assert images == 30
    assert "Token cache off: the training data are augmented. The image tower runs in every epoch." in caplog.text
    assert losses == fitted(tiny, tmp_path, Module(dataset=Pieces(augment=True)))[1]


@pytest.mark.parametrize(
    "options", [{"limit_train_batches": 1}, {"limit_train_batches": 2}, {"overfit_batches": 1}, {"fast_dev_run": 1}]
)
def test_no_cache_for_a_part_of_the_data(tiny: Clip, tmp_path: Path, options: Any) -> None:
    trainer(tmp_path, max_epochs=1, **options).fit(model(tiny, tmp_path), Module())
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_trains_without_cache(tiny: Clip, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.warns(UserWarning, match="Token cache off: .*cache.* Every epoch runs the tower"):
        _, losses, images = fitted(tiny, tmp_path)
    assert images == 30
    assert len(losses) == 9


def test_the_loader_of_the_trainer_is_cached_only_while_fitting(tiny: Clip, tmp_path: Path) -> None:
    data = Module()
    running = trainer(tmp_path, max_epochs=1)
    running.fit(model(tiny, tmp_path), data)
    assert isinstance(running.train_dataloader.dataset, CachedSamples)  # type: ignore[union-attr]
    assert isinstance(data.train_dataloader().dataset, Pieces)


@pytest.mark.parametrize(("stop", "cache"), [(3, "auto"), (5, "auto"), (8, "auto"), (5, "off")])
def test_a_killed_fit_resumes_to_the_same_curve(tiny: Clip, tmp_path: Path, stop: int, cache: Any) -> None:
    whole, expected, _ = fitted(tiny, tmp_path / "whole", cache=cache)
    curve, folder = Curve(stop), tmp_path / "killed"
    with pytest.raises(RuntimeError, match="killed"):
        trainer(folder, curve).fit(model(tiny, folder, cache=cache), Module())
    assert curve.losses == expected[:stop]
    saved = sorted(folder.rglob("*.ckpt"))
    assert len(saved) == (stop > 3)  # a checkpoint is written when an epoch is complete
    again, resumed = model(tiny, folder, cache=cache), Curve()
    torch.manual_seed(12345)
    trainer(folder, resumed).fit(again, Module(), ckpt_path=saved[-1] if saved else None)
    assert resumed.losses == expected[-len(resumed.losses) :]
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_another_seed_is_another_fit(tiny: Clip, tmp_path: Path) -> None:
    assert fitted(tiny, tmp_path)[1] != fitted(tiny, tmp_path, seed=7)[1]


# ---- what it was trained on


def test_the_checkpoint_knows_its_data(tiny: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fitted(tiny, tmp_path)
    (path,) = tmp_path.rglob("*.ckpt")
    loaded = AnomalyCLIP.load_from_checkpoint(path, backbone=tiny)
    assert loaded.trained_on == [{"name": "pieces", "root": "/data", "classes": None, "images": 10, "epochs": 3}]
    assert describe_training(loaded.trained_on) == "pieces (10 images, 3 epochs)"
    with caplog.at_level(logging.INFO):
        trainer(tmp_path).test(loaded, Module("other"))
    assert "AnomalyCLIP was trained on pieces (10 images, 3 epochs)." in caplog.text


def test_the_training_data_are_no_test_data(tiny: Clip, tmp_path: Path) -> None:
    made, _, _ = fitted(tiny, tmp_path)
    with pytest.raises(
        SameDataError, match=r"trained on pieces .* tested on pieces: not a zero-shot result.*allow_same_data"
    ):
        trainer(tmp_path).test(made, Module())
    made.allow_same_data = True
    trainer(tmp_path).test(made, Module())
    made.allow_same_data = False
    permitting = Module()
    permitting.allow_same = True
    trainer(tmp_path).test(made, permitting)


def test_other_classes_of_the_same_data_are_fair(tiny: Clip, tmp_path: Path) -> None:
    made, _, _ = fitted(tiny, tmp_path, Module(classes=["a"]))
    trainer(tmp_path).test(made, Module(classes=["b"]))
    with pytest.raises(SameDataError, match=r"trained on pieces \(classes a, 10 images"):
        trainer(tmp_path).test(made, Module(classes=["a", "b"]))


def test_folders_of_a_user_are_told_apart_by_their_path(tiny: Clip, tmp_path: Path) -> None:
    made, _, _ = fitted(tiny, tmp_path)
    other = Module()
    other.facts = None
    made.trained_on[0]["root"] = "/elsewhere"
    trainer(tmp_path).test(made, other)


def test_an_untrained_model_says_so_once(tiny: Clip, image: Tensor) -> None:
    made = AnomalyCLIP(tiny)
    with pytest.warns(UntrainedWarning, match="AnomalyCLIP is not trained"):
        made(image, ["a"] * 4)
    made(image, ["a"] * 4)
    AnomalyCLIP(tiny, n_ctx=0, depth=1)(image, ["a"] * 4)  # nothing to learn


# ---- weights files


def test_weights_file_round_trip(tiny: Clip, image: Tensor, tmp_path: Path) -> None:
    made, _, _ = fitted(tiny, tmp_path, n_ctx=5, feature_layers=[2, 4])
    path = made.save_weights(tmp_path / "deep" / "prompts.safetensors")
    assert path.stat().st_size < 20_000
    loaded = AnomalyCLIP.from_weights(path, tiny)
    assert loaded.trained_on == made.trained_on
    assert loaded.layers == (2, 4)
    for mine, theirs in zip(made(image, ["a"] * 4), loaded(image, ["a"] * 4), strict=True):
        assert torch.equal(mine, theirs)


def test_weights_files_that_do_not_fit(tiny: Clip, tmp_path: Path) -> None:
    path = AnomalyCLIP(tiny).save_weights(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="was written by AnomalyCLIP, not by CoOp"):
        CoOp.from_weights(path, tiny)
    with pytest.raises(CheckpointError, match="written for backbone 'tiny-test-0', this model has 'tiny-test-9'"):
        AnomalyCLIP.from_weights(path, make_clip(seed=9))
    with pytest.raises(CheckpointError, match=r"(?s)does not fit AnomalyCLIP.*ctx_normal"):
        AnomalyCLIP(tiny, n_ctx=3).load_weights(path)
    with pytest.raises(CheckpointError, match=r"unknown \['prompts.ctx_abnormal'\]"):
        AnomalyCLIP(tiny, share_context=True).load_weights(path)
    with pytest.raises(FileNotFoundError, match="No such checkpoint"):
        AnomalyCLIP.from_weights(tmp_path / "none.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="was not written by save_weights"):
        AnomalyCLIP.from_weights(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "yes"}, "cache must be 'auto', 'on' or 'off', got 'yes'"),
        ({"cache_dtype": "int8"}, "cache_dtype must be 'float32' or 'float16', got 'int8'"),
    ],
)
def test_unknown_options(tiny: Clip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnomalyCLIP(tiny, **options)
