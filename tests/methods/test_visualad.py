"""VisualAD beyond what the fixtures pin: options, training, the authors' files, and that no text takes part."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.conftest import make_clip
from tests.methods.test_trained import Curve, Module, Pieces, trainer
from tests.parity.kinds.visualad import author_file
from zsad.clip import Clip
from zsad.methods import CheckpointError, VisualAD
from zsad.methods.visualad.method import contrast
from zsad.methods.visualad.parts import CrossAttention
from zsad.types import Batch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # untrained models say that they are

NAMES = [""] * 4


def shaken(model: VisualAD, seed: int = 0) -> VisualAD:
    """The model with parameters far from their initial values, at which both tokens would be nearly alike."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value += 0.3 * torch.randn(value.shape, generator=random) * (3 if name.endswith("token") else 1)
    return model


@pytest.fixture
def batch(image: Tensor) -> Batch:
    """A batch with a square defect in two images."""
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    mask[[0, 2], 8:20, 8:20] = True
    label = torch.tensor([1, 0, 1, 0])
    return cast(
        Batch, {"image": image, "class_name": NAMES, "image_path": list("abcd"), "gt_mask": mask, "gt_label": label}
    )


# ---- prediction


@torch.no_grad()
def test_prototypes_come_from_the_last_block_whatever_is_read(tiny: Clip, image: Tensor) -> None:
    model = shaken(VisualAD(tiny, layers=(1, 3)))
    visual = tiny.model.visual
    grid = tiny.position_table((4, 4))
    patches = visual.conv1(image).flatten(2).transpose(1, 2) + grid[1:]
    special = torch.stack([visual.class_embedding, model.anomaly_token, model.normal_token]) + grid[0]
    x = visual.ln_pre(torch.cat([special.expand(4, -1, -1), patches], dim=1))  # order does not matter to attention
    states = []
    for block in visual.transformer.resblocks:
        x = block(x)
        states.append(x)
    seen = model.look(image)
    torch.testing.assert_close(seen.special, visual.ln_post(x[:, 1:3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.patches[1], visual.ln_post(states[0][:, 3:]), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.patches[3], visual.ln_post(states[2][:, 3:]), atol=1e-5, rtol=0)
    assert set(seen.grids) == {1, 3}


@torch.no_grad()
def test_image_scores_are_the_top_or_the_maximum_of_the_smoothed_map(tiny: Clip, image: Tensor) -> None:
    mean, highest = (shaken(VisualAD(tiny, image_score=how, score_ratio=0.013)) for how in ("top_mean", "max"))
    prediction = mean(image, NAMES)
    for one, score in zip(prediction.anomaly_map.numpy(), prediction.pred_score, strict=True):
        top = np.sort(one.ravel())[-math.ceil(0.013 * 32 * 32) :]
        assert score.item() == pytest.approx(top.mean(), abs=1e-6)
    torch.testing.assert_close(highest(image, NAMES).pred_score, prediction.anomaly_map.amax(dim=(1, 2)))


@torch.no_grad()
def test_no_text_tower_runs(image: Tensor) -> None:
    clip = make_clip()
    expected = VisualAD(clip)(image, NAMES)
    for name, parameter in clip.model.named_parameters():
        if not name.startswith("visual."):
            parameter.fill_(torch.nan)
    torch.testing.assert_close(VisualAD(clip)(image, ["screw", "nut", "", "x"]), expected, atol=0, rtol=0)


@torch.no_grad()
def test_the_position_table_of_the_anchors_bounds_the_image(tiny: Clip, image: Tensor) -> None:
    model = VisualAD(tiny, max_patches=20)
    model(image, NAMES)
    with pytest.raises(ValueError, match=r"40 x 40 pixels make 25 patches, .* has 20 rows: use .* at most 32 pixels"):
        model(torch.randn(1, 3, 40, 40), [""])
    first = shaken(VisualAD(tiny, max_patches=200))
    table = first.state_dict()["cross_attn.layer_attentions.layer_2.pos_encoding"]
    assert table.shape == (1, 200, 32)
    expected = first(image, NAMES)
    table[:, 16:] = 0  # rows beyond the image's patches are not read
    torch.testing.assert_close(first(image, NAMES), expected, atol=0, rtol=0)
    table[:, 15] += 1
    assert not torch.equal(first(image, NAMES).anomaly_map, expected.anomaly_map)


@torch.no_grad()
def test_evaluation_norm_is_clips_own_unless_the_trained_one_is_asked_for(tiny: Clip, image: Tensor) -> None:
    own, trained = VisualAD(tiny), VisualAD(tiny, ln_post="trained")
    torch.testing.assert_close(own(image, NAMES), trained(image, NAMES), atol=1e-6, rtol=0)  # equal before training
    before = own(image, NAMES)
    for model in (own, trained):
        model.ln_post_weight.mul_(torch.linspace(0.5, 2, 32))
    torch.testing.assert_close(own(image, NAMES), before, atol=0, rtol=0)
    assert not torch.allclose(trained(image, NAMES).anomaly_map, before.anomaly_map, atol=1e-4)


@torch.no_grad()
def test_the_way_from_image_to_map_can_be_exported(tiny: Clip, image: Tensor) -> None:
    model = shaken(VisualAD(tiny)).eval()

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            prediction = self.model(x, [""] * 4)
            return prediction.anomaly_map, prediction.pred_score

    expected = Whole()(image)
    model.forget_text()
    got = torch.export.export(Whole(), (image,)).module()(image)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


# ---- training


def test_contrast_is_a_hinge_before_the_mean() -> None:
    cosines = torch.tensor([0.9, -0.2, -0.7, -0.95])
    angles = cosines.acos()
    tokens = torch.stack(
        [torch.tensor([3.0, 0.0]).expand(4, 2), torch.stack([angles.cos(), angles.sin()], dim=1)], dim=1
    )
    assert contrast(tokens, 0.5).item() == pytest.approx((1.4 + 0.3) / 4, abs=1e-6)


def test_each_tokens_gradient_is_clipped_by_its_own_norm(tiny: Clip) -> None:
    model = VisualAD(tiny, clip_norm=0.5)
    random = torch.Generator().manual_seed(0)
    gradients = {name: size * F.normalize(torch.randn(32, generator=random), dim=0) for name, size in
                 (("anomaly_token", 3.0), ("normal_token", 0.2), ("ln_post_weight", 9.0))}  # fmt: skip
    for name, value in gradients.items():
        getattr(model, name).grad = value.clone()
    model.on_before_optimizer_step(cast(torch.optim.Optimizer, None))
    torch.testing.assert_close(model.anomaly_token.grad, gradients["anomaly_token"] / 6, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.normal_token.grad, gradients["normal_token"], atol=0, rtol=0)
    torch.testing.assert_close(model.ln_post_weight.grad, gradients["ln_post_weight"], atol=0, rtol=0)


def test_training_lowers_the_loss_and_leaves_the_backbone_alone(batch: Batch) -> None:
    clip = make_clip()
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    model = VisualAD(clip, lr=1e-2, dropout=0.0)
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learned == set(model.state_dict())
    optimizer = model.optimizer_and_schedule(1)["optimizer"]
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(model.loss(batch)["loss"])
        losses[-1].backward()
        model.on_before_optimizer_step(optimizer)
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in clip.model.state_dict().items())
    assert not torch.equal(model.ln_post_weight, before["visual.ln_post.weight"])  # learned though not evaluated with


def test_the_loss_is_the_sum_of_its_logged_parts(tiny: Clip, batch: Batch) -> None:
    losses = shaken(VisualAD(tiny, layers=(2, 4))).loss(batch)
    assert set(losses) == {"loss", "focal.l2", "dice.l2", "focal.l4", "dice.l4", "image", "contrast"}
    assert all(value.ndim == 0 for value in losses.values())
    assert losses["loss"].item() == pytest.approx(sum(value.item() for name, value in losses.items() if name != "loss"))


def test_dropout_acts_in_training_only_and_apart_for_both_tokens(tiny: Clip, image: Tensor, batch: Batch) -> None:
    model = shaken(VisualAD(tiny, dropout=0.5))
    for mode in (True, False):
        model.train(mode)
        assert torch.equal(model(image, NAMES).anomaly_map, model(image, NAMES).anomaly_map)
        assert model.loss(batch)["loss"] != model.loss(batch)["loss"]
    torch.manual_seed(0)
    part = CrossAttention(32, 4, 20, 0.5, res_scale=1.0)
    patches, tokens = torch.randn(2, 16, 32), torch.randn(2, 1, 32).expand(-1, 2, -1)
    for drop in (True, False):
        one, other = part(patches, tokens, drop).unbind(dim=1)
        assert torch.equal(one, other) is not drop


def test_masks_and_labels_are_needed_and_the_seed_decides_the_start(tiny: Clip, batch: Batch) -> None:
    for key in ("gt_mask", "gt_label"):
        without = cast(Batch, {name: value for name, value in batch.items() if name != key})
        with pytest.raises(ValueError, match=f"VisualAD learns from {key}, a has none"):
            VisualAD(tiny).loss(without)
    states = [VisualAD(tiny, seed=seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["anomaly_token"], states[2]["anomaly_token"])


def test_published_epochs_and_the_schedule_need_epochs(tiny: Clip, tmp_path: Path) -> None:
    assert VisualAD(tiny).published_fit("mvtec_ad") == (2, {})
    assert VisualAD(tiny).published_fit("visa") == (1, {})
    with pytest.raises(ValueError, match="cosine schedule runs over the epochs, got max_epochs=-1"):
        trainer(tmp_path, max_epochs=-1, max_steps=3).fit(VisualAD(tiny), Module())


class Workers(Module):
    """The pieces through a loader's worker processes."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Pieces(), batch_size=4, shuffle=True, num_workers=1)


@pytest.mark.parametrize("data", [Module, Workers])
def test_a_killed_fit_with_dropout_resumes_to_the_same_curve(tiny: Clip, tmp_path: Path, data: type[Module]) -> None:
    whole, expected = VisualAD(tiny), Curve()
    trainer(tmp_path / "whole", expected).fit(whole, data())
    assert len(set(expected.losses)) == 9
    curve, folder = Curve(5), tmp_path / "killed"
    with pytest.raises(RuntimeError, match="killed"):
        trainer(folder, curve).fit(VisualAD(tiny), data())
    (saved,) = folder.rglob("*.ckpt")
    again, resumed = VisualAD(tiny), Curve()
    torch.manual_seed(12345)
    trainer(folder, resumed).fit(again, data(), ckpt_path=saved)
    assert resumed.losses == expected.losses[3:]
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert again.trained_on[0]["epochs"] == 3


def test_gradients_run_through_the_tower_also_when_a_trainer_drives(tiny: Clip, tmp_path: Path) -> None:
    model = VisualAD(tiny)
    start = model.state_dict()["anomaly_token"].clone()
    running: Trainer = trainer(tmp_path, max_epochs=1)
    running.fit(model, Module())
    assert (model.anomaly_token.detach() - start).abs().min() > 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (3, 2)}, r"layers must rise and lie in 1\.\.4 for .*, got \[3, 2\]"),
        ({"layers": (2, 5)}, r"got \[2, 5\]"),
        ({"n_anchors": 0}, "n_anchors must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"max_patches": 0}, "max_patches must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"ln_post": "own"}, "ln_post must be 'backbone' or 'trained', got 'own'"),
        ({"image_score": "mean"}, "image_score must be 'top_mean' or 'max', got 'mean'"),
        ({"score_ratio": 0.0}, r"score_ratio must be in \(0, 1\], got 0.0"),
        ({"clip_norm": 0.0}, "clip_norm must be > 0, got 0.0"),
    ],
)
def test_options_out_of_range(tiny: Clip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisualAD(tiny, **options)


# ---- the authors' files


@pytest.fixture
def model(tiny: Clip) -> VisualAD:
    """A model whose sizes are none of the defaults."""
    return shaken(VisualAD(tiny, layers=(2, 4), n_anchors=3, hidden=24, max_patches=50)).eval()


def test_sizes_layers_and_source_come_out_of_the_file(model: VisualAD, image: Tensor, tmp_path: Path) -> None:
    for folder, source in (("train_on_visa", "visa"), ("train_on_mvtec", "mvtec_ad")):
        path = tmp_path / folder / "CLIP.pth"
        path.parent.mkdir()
        torch.save(author_file(model, 64), path)
        loaded = VisualAD.from_author_checkpoint(path, model.clip)
        assert loaded.trained_on == [{"name": source, "epochs": 1}]
        assert loaded.protocol.size == 64
        torch.testing.assert_close(loaded.eval()(image, NAMES), model(image, NAMES), atol=0, rtol=0)
    torch.save(author_file(model, 64), tmp_path / "CLIP.pth")
    loaded = VisualAD.from_author_checkpoint(tmp_path / "CLIP.pth", model.clip, image_size=32, sigma=1.0)
    assert "unknown data" in loaded.trained_on[0]["name"]
    assert (loaded.protocol.size, loaded.sigma) == (32, 1.0)
    loaded = VisualAD.from_author_checkpoint(tmp_path / "CLIP.pth", model.clip, trained_on="btad")
    assert loaded.trained_on[0]["name"] == "btad"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, r"unknown \['extra'\]"),
        ({"epoch": None}, r"missing \['epoch'\]"),
        ({"backbone": "ViT-B/16"}, "written for backbone='ViT-B/16'; only 'ViT-L/14@336px'"),
        ({"transform_type": "conv"}, "transform_type='conv'"),
        ({"features_list": [4, 2]}, r"reads the blocks \[4, 2\]; they must rise"),
        ({"features_list": [1, 4]}, r"names the blocks \[1, 4\] but lacks 'cross_attn.layer_attentions.layer_1"),
        ({"anomaly_token": torch.zeros(8)}, r"first at 'anomaly_token': expected shape \(32,\), found \(8,\)"),
        ({"normal_token": "nothing"}, r"\['normal_token'\] hold no tensors"),
        ({"cross_attn": {}}, "but lacks 'cross_attn.layer_attentions.layer_2.anchor_queries'"),
    ],
)
def test_files_that_do_not_fit_are_refused(model: VisualAD, tmp_path: Path, changes: Any, message: str) -> None:
    path = tmp_path / "CLIP.pth"
    content = {**author_file(model, 32), **changes}
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    with pytest.raises(CheckpointError, match=message):
        VisualAD.from_author_checkpoint(path, model.clip)


def test_a_pointer_a_broken_and_a_missing_file_are_told_apart(tiny: Clip, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such checkpoint"):
        VisualAD.from_author_checkpoint(tmp_path / "none.pth", tiny)
    path = tmp_path / "CLIP.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:fed8ed\nsize 126119090\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        VisualAD.from_author_checkpoint(path, tiny)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        VisualAD.from_author_checkpoint(path, tiny)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match=r"unknown \['list'\]"):
        VisualAD.from_author_checkpoint(path, tiny)
