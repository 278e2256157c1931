"""What the base class gives every method: text cache, checkpoints, messages, evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.conftest import make_clip
from zsad.clip import Clip
from zsad.methods import CLIP, CheckpointError, Method, get_method, list_methods
from zsad.methods.clipac import CLIPAC
from zsad.types import Batch, Context, Prediction


class Learned(Method):
    """The smallest trained method: one vector per state."""

    published_backbone = "none/none"
    score_range = None
    calls = 0

    def __init__(self, backbone: str | Clip, bias: float = 0.0, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.states = nn.Parameter(torch.randn(2, self.clip.dim, generator=torch.Generator().manual_seed(3)))

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        self.calls += len(class_names)
        return self.states.expand(len(class_names), -1, -1)

    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        cls = self.clip.encode_image(image).cls
        return Prediction(image.mean(1), torch.einsum("bd,bd->b", cls, text[:, 1] - text[:, 0]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        text = self.text_features(batch["class_name"])
        prediction = self.score(batch["image"], text, Context(batch["class_name"], batch["image_path"]))
        value = nn.functional.binary_cross_entropy_with_logits(prediction.pred_score, batch["gt_label"].float())
        return {"loss": value, "half": value / 2}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.states], lr=0.1)


def loader(number: int = 6, masks: bool = True) -> DataLoader[Any]:
    """Tiny labelled images of two classes."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(number):
        sample: dict[str, Any] = {
            "image": torch.randn(3, 32, 32, generator=generator),
            "class_name": "ab"[i % 2],
            "image_path": f"{i}.png",
            "gt_label": torch.tensor(int(i >= number // 2)),
        }
        if masks:
            sample["gt_mask"] = torch.rand(32, 32, generator=generator) > (0.9 if i >= number // 2 else 1)
        samples.append(sample)
    return DataLoader(samples, batch_size=4)  # type: ignore[arg-type]


def trainer(**options: Any) -> Trainer:
    """A silent trainer on the CPU."""
    return Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, **options)


def test_each_class_is_encoded_once(tiny: Clip, image: Tensor) -> None:
    model = Learned(tiny)
    model(image, ["a", "b", "a", "b"])
    model(image, ["b", "b", "a", "c"])
    assert model.calls == 3


def test_class_agnostic_text_is_encoded_once(tiny: Clip, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learned, "class_agnostic", True)
    model = Learned(tiny)
    assert model.text(["a", "b"]).shape == (2, 2, 16)
    assert model.calls == 1


def test_text_cache_is_dropped_when_weights_or_dtype_change(tiny: Clip) -> None:
    model = Learned(make_clip())
    before = model.text(["a"]).clone()
    model.load_state_dict({"states": model.states.detach() + 1})
    assert not torch.equal(model.text(["a"]), before)
    assert model.double().text(["a"]).dtype == torch.float64


def test_validation_during_training_sees_the_current_text(tiny: Clip) -> None:
    scores: list[Tensor] = []

    class Watched(Learned):
        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            scores.append(self.text(["a"]).clone())
            super().validation_step(batch, batch_idx)

    model = Watched(tiny)
    trainer(max_epochs=2, num_sanity_val_steps=0, enable_checkpointing=False).fit(model, loader(), loader())
    assert not torch.equal(scores[0], scores[-1])


def test_checkpoint_holds_learned_parameters_only_and_round_trips(tiny: Clip, image: Tensor, tmp_path: Path) -> None:
    model = Learned(tiny, bias=2.0, sigma=1.5)
    running = trainer(max_epochs=1, default_root_dir=tmp_path)
    running.fit(model, loader())
    path = tmp_path / "model.ckpt"
    running.save_checkpoint(path)
    assert list(torch.load(path, weights_only=True)["state_dict"]) == ["states"]
    assert path.stat().st_size < 50_000
    loaded = Learned.load_from_checkpoint(path, backbone=tiny)
    assert loaded.sigma == 1.5
    assert loaded.hparams["bias"] == 2.0
    for mine, theirs in zip(model(image, ["a"] * 4), loaded(image, ["a"] * 4), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["state_dict"].update(extra=torch.zeros(1)), r"unknown \['extra'\]"),
        (lambda c: c["state_dict"].pop("states"), r"missing \['states'\]"),
        (lambda c: c["zsad"].update(method="CoOp"), r"was written by CoOp, not by Learned"),
        (lambda c: c["zsad"].update(backbone="other"), r"written for backbone 'other', this model has 'tiny-test-0'"),
    ],
)
def test_foreign_checkpoints_are_refused(change: Any, message: str, tiny: Clip, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    running = trainer(max_epochs=0, default_root_dir=tmp_path)
    running.fit(Learned(tiny), loader())
    running.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=message):
        Learned.load_from_checkpoint(path, backbone=tiny)


def test_evaluation_logs_means_and_classes(tiny: Clip) -> None:
    results = trainer().test(Learned(tiny, metrics="exact"), loader(), verbose=False)[0]
    assert {"test/image_auroc", "test/pixel_auroc", "test/aupro", "test/image_auroc/a", "test/image_auroc/b"} <= set(
        results
    )
    mean = (results["test/image_auroc/a"] + results["test/image_auroc/b"]) / 2
    assert results["test/image_auroc"] == pytest.approx(mean)


def test_without_masks_there_are_image_metrics_only(tiny: Clip) -> None:
    results = trainer().test(Learned(tiny), loader(masks=False), verbose=False)[0]
    assert "test/image_auroc" in results
    assert not [name for name in results if "pixel" in name or "aupro" in name]


def test_trainer_and_plain_calls_agree(tiny: Clip) -> None:
    model = CLIP(tiny)
    batches = trainer().predict(model, loader())
    assert batches is not None
    direct = [model(batch["image"], batch["class_name"]) for batch in loader()]
    for mine, theirs in zip(batches, direct, strict=True):
        torch.testing.assert_close(mine.pred_score, theirs.pred_score, atol=1e-6, rtol=0)


def test_fitting_a_training_free_method_says_so(tiny: Clip) -> None:
    with pytest.raises(TypeError, match="CLIP is training-free: there is nothing to fit"):
        trainer(max_epochs=1).fit(CLIP(tiny), loader())


def test_messages_about_shapes(tiny: Clip, image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"shape \(batch, 3, height, width\), got \(3, 32, 32\)"):
        CLIP(tiny)(image[0], ["a"])
    with pytest.raises(ValueError, match=r"got 1 names for 4 images"):
        CLIP(tiny)(image, ["a"])
    with pytest.raises(ValueError, match=r"sigma must be >= 0 pixels, got -1"):
        CLIP(tiny, sigma=-1)


def test_evaluation_without_labels_says_what_to_do(tiny: Clip, image: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"Evaluation needs labels, but none are known for x.png; use predict or score"
    ):
        CLIP(tiny).test_step({"image": image, "class_name": ["a"] * 4, "image_path": ["x.png"] * 4}, 0)


def test_two_methods_share_one_backbone(tiny: Clip, image: Tensor) -> None:
    first, second = CLIP(tiny), CLIPAC(tiny)
    assert first.clip is second.clip
    before = first(image, ["a"] * 4).anomaly_map
    second(image, ["a"] * 4)
    assert torch.equal(first(image, ["a"] * 4).anomaly_map, before)


def test_registry() -> None:
    assert list_methods()[:2] == ["clip", "clipac"]
    assert get_method("Mask-CLIP") is get_method("maskclip")
    with pytest.raises(ValueError, match=r"Unknown method 'annovl'\. Did you mean 'anovl'"):
        get_method("annovl")
