"""CoOp: prompts per class with one context, CLIP's own embeddings, the published schedule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from zsad.clip import Clip
from zsad.functional.maps import probability, similarity
from zsad.methods import CoOp
from zsad.types import Batch

pytestmark = pytest.mark.filterwarnings(
    "ignore::zsad.methods.trained.UntrainedWarning", "ignore:.*does not have many workers:UserWarning"
)


@pytest.fixture
def batch(image: Tensor) -> Batch:
    return {
        "image": image,
        "class_name": ["metal_nut", "pcb1", "metal_nut", "pcb1"],
        "image_path": list("abcd"),
        "gt_label": torch.tensor([0, 1, 1, 0]),
    }


def test_prompt_texts(tiny: Clip) -> None:
    texts = CoOp(tiny, n_ctx=2).prompts.texts(["metal_nut", "pcb1"])
    assert texts == ["X X normal metal nut.", "X X anomalous metal nut.", "X X normal pcb1.", "X X anomalous pcb1."]
    other = CoOp(tiny, n_ctx=1, normal_words="{}", abnormal_words="damaged {}").prompts.texts(["pcb1"])
    assert other == ["X pcb1.", "X damaged pcb1."]


def test_one_context_is_all_that_is_learned(tiny: Clip) -> None:
    model = CoOp(tiny)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == {"prompts.ctx_normal": (16, 32)}


def test_each_image_meets_the_pair_of_its_class(tiny: Clip, batch: Batch) -> None:
    model = CoOp(tiny)
    cls = F.normalize(tiny.encode_image(batch["image"]).cls, dim=-1)
    text = model.text(batch["class_name"])
    logits = tiny.logit_scale * torch.einsum("bd,bkd->bk", cls, text)
    expected = F.cross_entropy(logits, batch["gt_label"])
    torch.testing.assert_close(model.loss(batch)["loss"], expected, atol=1e-5, rtol=1e-5)
    prediction = model(batch["image"], batch["class_name"])
    torch.testing.assert_close(prediction.pred_score, logits.softmax(-1)[:, 1], atol=1e-5, rtol=0)


def test_the_map_is_of_ordinary_patch_tokens(tiny: Clip, batch: Batch) -> None:
    model = CoOp(tiny, feature_layer=3, temperature=0.5, sigma=0.0)
    patches = tiny.encode_image(batch["image"], layers=(3,)).patches[3]
    prob = probability(similarity(patches, model.text(batch["class_name"])), 0.5).unflatten(1, (4, 4))
    expected = F.interpolate(prob[:, None], size=(32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(model(batch["image"], batch["class_name"]).anomaly_map, expected, atol=1e-6, rtol=0)


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rates_of_a_fit(tiny: Clip, batch: Batch, tmp_path: Path, schedule: Any) -> None:
    samples = [{key: value[i] for key, value in batch.items()} for i in range(4)]  # type: ignore[index]
    model, rates = CoOp(tiny, lr_schedule=schedule), Rates()
    running = Trainer(
        accelerator="cpu", max_epochs=5, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[rates], default_root_dir=tmp_path,
    )  # fmt: skip
    running.fit(model, DataLoader(samples, batch_size=2))  # type: ignore[arg-type]
    cosine = [1e-5] + [0.001 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(1, 5)]
    assert rates.seen == pytest.approx(cosine if schedule == "cosine" else [0.002] * 5, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_layer": 5}, "feature_layer must lie in 1..4 for 'tiny-test-0', got 5"),
        ({"temperature": 0.0}, "temperature must be > 0, or None for the model's own scale, got 0.0"),
        ({"lr_schedule": "step"}, "lr_schedule must be 'cosine' or 'constant', got 'step'"),
    ],
)
def test_bad_options(tiny: Clip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoOp(tiny, **options)


def test_labels_are_needed(tiny: Clip, batch: Batch) -> None:
    with pytest.raises(ValueError, match="CoOp learns from gt_label, a has none"):
        CoOp(tiny).loss({key: value for key, value in batch.items() if key != "gt_label"})  # type: ignore[arg-type]


def test_the_cosine_needs_an_end(tiny: Clip, batch: Batch, tmp_path: Path) -> None:
    running = Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    samples = [{key: value[i] for key, value in batch.items()} for i in range(4)]  # type: ignore[index]
    with pytest.raises(ValueError, match=r"needs the number of epochs, got Trainer\(max_epochs=-1\)"):
        running.fit(CoOp(tiny), DataLoader(samples, batch_size=2))  # type: ignore[arg-type]
