"""AA-CLIP beyond the fixtures: options they do not reach, the two stages, checkpoints, the authors' files."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tests.conftest import make_clip
from zsad.clip import Clip
from zsad.clip.blocks import TwoPath, vv_tower
from zsad.datamodules import Synthetic
from zsad.methods import AACLIP, CheckpointError
from zsad.methods.aaclip.adapters import disentangle, level_map
from zsad.methods.aaclip.fusion import class_min_max, fused_scores
from zsad.methods.trained import UntrainedWarning
from zsad.prompts import load_prompts
from zsad.training.augment import ColourJitter

CLASSES = ["visa/candle", "visa/pcb1", "visa/candle", "cork"]


def make(clip: Clip, stage: str = "image", **options: Any) -> AACLIP:
    """A model that counts as trained; its adapters have their initial values."""
    model = AACLIP(clip, stage=stage, **options)  # type: ignore[arg-type]
    model.finished.fill_(True)
    model.trained_on = {"name": "nothing"}
    return model


@pytest.fixture
def batch(image: Tensor) -> dict[str, Any]:
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    mask[0, 4:12, 4:20] = mask[2, 20:, 20:] = True
    return {
        "image": image,
        "class_name": CLASSES,
        "image_path": [f"{number}.png" for number in range(4)],
        "gt_label": torch.tensor([1, 0, 1, 0]),
        "gt_mask": mask,
    }


# ---- prompts


def test_prompts_are_the_released_ones() -> None:
    prompts = load_prompts("aa_clip")
    assert len(prompts.class_aliases) == 43
    sides = {name: prompts.compose(name, "readable") for name in prompts.class_aliases}
    assert {(len(normal), len(anomalous)) for normal, anomalous in sides.values()} == {(6, 10)}
    text = "\n".join(line for name in sorted(sides) for side in sides[name] for line in side)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "c667c773e62d96ed81cf0ef24acd914a00557c7c61d024eb66bb3302c66fd6b1"
    )
    assert "a photo of a a black zipper." in sides["mvtec_ad/zipper"][0]
    assert sides["btad/01"][0][0].endswith("radiating outward..")
    assert sides["visa/pcb1"][1][4] == "a dual ultrasonic distance sensor pcb module with flaw."


def test_descriptions_belong_to_their_benchmark(tiny: Clip) -> None:
    model = make(tiny, benchmark="mvtec_ad")
    assert model.class_prompts("metal_nut")[0][0] == "metal nut which has four notched edges."
    assert model.class_prompts("my_part")[0][0] == "my part."
    assert model.class_prompts("visa/pcb4")[0][0] == "battery charging pcb module."
    assert make(tiny).class_prompts("metal_nut")[0][0] == "metal nut."  # a user's own class of the same name


def test_one_template_and_one_state_at_a_time(tiny: Clip) -> None:
    model = make(tiny, templates=["there is a {}."], abnormal_states=["corrupted {}"])
    normal, anomalous = model.class_prompts("visa/cashew")
    assert normal == ["there is a cashew nut.", "there is a a cashew nut.", "there is a the cashew nut."]
    assert anomalous == ["there is a corrupted cashew nut."]


# ---- anchors


def test_plain_anchors_are_those_of_clip_itself(tiny: Clip) -> None:
    model = make(tiny, anchors="plain")
    tokenizer = open_clip.SimpleTokenizer(context_length=77)
    got = model.text_features(["cork"])[0]
    for row, texts in zip(got, model.class_prompts("cork"), strict=True):
        embeddings = F.normalize(tiny.model.encode_text(tokenizer(texts)), dim=-1)
        torch.testing.assert_close(row, F.normalize(embeddings.mean(0), dim=-1), atol=1e-6, rtol=0)


def test_plain_anchors_need_no_first_stage_and_allow_none(tiny: Clip) -> None:
    with pytest.raises(ValueError, match="leaves nothing to train in stage='text'"):
        AACLIP(tiny, stage="text", anchors="plain")


def test_disentangle_is_the_square_of_the_mean() -> None:
    text = F.normalize(torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    products = [float(pair[0].double() @ pair[1].double()) for pair in text]
    assert float(disentangle(text)) == pytest.approx(np.mean(products) ** 2, abs=1e-7)
    assert abs(np.mean(products) ** 2 - np.mean(np.square(products))) > 1e-3  # the two readings differ here


# ---- towers


def with_values_for_all(model: open_clip.CLIP, first: int) -> open_clip.CLIP:
    """The same model with queries and keys replaced by values from block ``first`` on: ordinary blocks do V-V then."""
    changed = copy.deepcopy(model)
    for block in list(changed.visual.transformer.resblocks)[first - 1 :]:
        for name in ("in_proj_weight", "in_proj_bias"):
            packed = getattr(block.attn, name).data
            packed[:] = packed.chunk(3)[2].repeat(3, *[1] * (packed.ndim - 1))
    return changed


@pytest.mark.parametrize("axis", ["token", "batch"])
@pytest.mark.parametrize("first", [1, 3, 5])
def test_vv_tower(tiny: Clip, image: Tensor, first: int, axis: str) -> None:
    x = tiny.embed_image(image)
    state, kept = tiny.run_image(x, vv_tower(first, axis), range(1, 5))  # type: ignore[arg-type]
    expected = x
    blocks = with_values_for_all(tiny.model, first).visual.transformer.resblocks
    for number, block in enumerate(blocks, start=1):
        swapped = axis == "batch" and number >= first
        expected = block(expected.transpose(0, 1)).transpose(0, 1) if swapped else block(expected)
        side = kept[number].side[0] if isinstance(kept[number], TwoPath) else kept[number]
        torch.testing.assert_close(side, expected, atol=2e-5, rtol=1e-5)
    ordinary, _ = tiny.run_image(x)
    torch.testing.assert_close(state.main if isinstance(state, TwoPath) else state, ordinary, atol=1e-5, rtol=1e-5)


def test_only_the_batch_axis_mixes_images(tiny: Clip, image: Tensor) -> None:
    for axis, mixes in (("token", False), ("batch", True)):
        model = make(tiny, "text", vv_axis=axis, levels=[1, 4], vv_blocks=3)
        together, cls = model.stage1_features(image, [1, 4])
        alone, alone_cls = model.stage1_features(image[:1], [1, 4])
        torch.testing.assert_close(alone_cls, cls[:1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone[1], together[1][:1], atol=1e-5, rtol=1e-5)  # before the first V-V block
        assert bool((alone[4] - together[4][:1]).abs().max() > 1e-2) is mixes


def test_levels_of_shallow_and_deep_towers(tiny: Clip) -> None:
    assert AACLIP(tiny).levels == (1, 2, 3, 4)
    deep = AACLIP(make_clip(layers=12))
    assert deep.levels == (3, 6, 9, 12)
    assert (deep.vv_blocks, len(deep.image_adapter.layer_adapters), len(deep.text_adapter) - 1) == (10, 3, 1)
    assert AACLIP(make_clip(layers=2)).levels == (1, 2)


# ---- scores


def test_score_does_not_depend_on_company(tiny: Clip, image: Tensor) -> None:
    model = make(tiny)
    together = model(image, CLASSES)
    alone = model(image[2:3], CLASSES[2:3])
    torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.pred_score[0], together.pred_score[2], atol=1e-6, rtol=0)


def test_domain_decides_the_blur(tiny: Clip) -> None:
    image = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    cases: dict[str, dict[str, Any]] = {
        "industrial": {"domain": "industrial"},
        "medical": {"domain": "medical"},
        "as medical": {"blur": (9, 1.5)},
        "default": {},
    }
    maps = {name: make(tiny, **options)(image, ["a", "a"]).anomaly_map for name, options in cases.items()}
    assert torch.equal(maps["default"], maps["industrial"])
    assert torch.equal(maps["as medical"], maps["medical"])
    assert maps["medical"].std() < maps["industrial"].std()


def test_a_grid_too_small_for_the_blur_is_refused() -> None:
    patches, text = torch.randn(1, 16, 8), torch.randn(1, 2, 8)
    assert level_map(patches, text, (4, 4), (32, 32), (7, 1.0)).shape == (1, 32, 32)
    with pytest.raises(ValueError, match=r"4 x 4 patches is too small for a 9 x 9 blur .* needs 5 patches a side"):
        level_map(patches, text, (4, 4), (32, 32), (9, 1.5))


# ---- losses and optimisers


def test_stage_one_options(tiny: Clip, batch: dict[str, Any]) -> None:
    losses: dict[str, dict[str, Tensor]] = {}
    for levels in ("last", "sum", "mean"):
        model = AACLIP(tiny, "text", stage1_levels=levels, gamma=0.3, stage1_cls_loss=True, cls_scale=7.0)
        losses[levels] = {name: value.detach() for name, value in model.loss(batch).items()}  # type: ignore[arg-type]
    one = losses["last"]
    text = model.anchors(CLASSES).detach()
    cls = F.normalize(tiny.model.encode_image(batch["image"]), dim=-1)
    cosines = torch.stack([(cls * text[:, 0]).sum(1), (cls * text[:, 1]).sum(1)], dim=1)
    expected = -(7 * cosines).log_softmax(1)[torch.arange(4), batch["gt_label"]].mean()
    torch.testing.assert_close(one["cross_entropy"], expected, atol=1e-5, rtol=1e-5)
    for parts in losses.values():
        whole = parts["segmentation"] + 0.3 * parts["disentangle"] + parts["cross_entropy"]
        torch.testing.assert_close(parts["loss"], whole)
    torch.testing.assert_close(losses["sum"]["segmentation"], 4 * losses["mean"]["segmentation"])
    patches, _ = model.stage1_features(batch["image"], [4])
    last = model.segmentation(patches, text, batch["gt_mask"])[4].total
    torch.testing.assert_close(one["segmentation"], last, atol=1e-5, rtol=1e-5)


def test_stage_two_scales_its_cosines(tiny: Clip, batch: dict[str, Any]) -> None:
    model = make(tiny, cls_scale=20.0)
    _, detection = model.image_features(batch["image"])
    text = model.text_features(CLASSES)
    cosines = torch.einsum("bd,bsd->bs", detection, text).detach()
    expected = -(20 * cosines).log_softmax(1)[torch.arange(4), batch["gt_label"]].mean()
    loss = model.loss(batch)  # type: ignore[arg-type]
    torch.testing.assert_close(loss["cross_entropy"].detach(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss["loss"], loss["cross_entropy"] + loss["segmentation"])


def test_cached_features_give_the_same_loss(tiny: Clip, batch: dict[str, Any]) -> None:
    model = AACLIP(tiny, "text", vv_axis="token", stage1_cls_loss=True, stage1_levels="sum")
    parts = [model.frozen_features(batch["image"][i : i + 1]) for i in range(4)]
    cached = {key: value for key, value in batch.items() if key != "image"}
    cached["features"] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    for name, value in model.loss(batch).items():  # type: ignore[arg-type]
        torch.testing.assert_close(model.loss(cached)[name], value, atol=1e-5, rtol=1e-5)  # type: ignore[arg-type]


def test_what_keeps_features_from_being_cached(tiny: Clip) -> None:
    assert AACLIP(tiny, "text", vv_axis="token", augment_p=0).why_not_cacheable == ""
    assert "vv_axis='batch'" in AACLIP(tiny, "text", augment_p=0).why_not_cacheable
    assert "augment_p=0.5" in AACLIP(tiny, "text", vv_axis="token").why_not_cacheable
    assert "stage='image'" in AACLIP(tiny, "image", vv_axis="token", augment_p=0).why_not_cacheable
    with pytest.raises(TypeError, match="no frozen features"):
        AACLIP(tiny, "image").frozen_features(torch.zeros(1, 3, 32, 32))


def test_adam_follows_its_formula_with_both_betas(tiny: Clip) -> None:
    model = AACLIP(tiny, "text", lr=0.01)
    optimizer = model.configure_optimizers()
    parameter = list(model.text_adapter.parameters())[-1]
    value = parameter.detach().double().numpy().copy()
    first = second = np.zeros_like(value)
    for step in range(1, 5):
        gradient = np.random.RandomState(step).standard_normal(value.shape) * 10.0 ** (-step)
        for one in model.text_adapter.parameters():
            one.grad = torch.zeros_like(one)
        parameter.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        first, second = 0.5 * first + 0.5 * gradient, 0.999 * second + 0.001 * gradient**2
        value = value - 0.01 * (first / (1 - 0.5**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(parameter.detach().numpy(), value, atol=1e-6)


def test_schedule_counts_optimiser_steps(tiny: Clip) -> None:
    assert isinstance(AACLIP(tiny, "text").configure_optimizers(), torch.optim.Adam)
    assert AACLIP(tiny, "image").milestones == (16000, 32000)
    configured = AACLIP(tiny, "image", milestones=[2, 3]).configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(5):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert rates == [5e-4, 5e-4, 2.5e-4, 1.25e-4, 1.25e-4]


def test_each_stage_trains_its_own_adapters(tiny: Clip) -> None:
    for stage in ("text", "image"):
        trained = {name.partition("_")[0] for name, one in AACLIP(tiny, stage).named_parameters() if one.requires_grad}
        assert trained == {stage}


def test_masks_and_labels_are_needed(tiny: Clip, batch: dict[str, Any]) -> None:
    for key in ("gt_mask", "gt_label"):
        with pytest.raises(ValueError, match=f"stage='image' needs '{key}'"):
            AACLIP(tiny, "image").loss({name: value for name, value in batch.items() if name != key})  # type: ignore[arg-type]


def test_paper_variant(tiny: Clip) -> None:
    paper = AACLIP(tiny, variant="paper")
    assert (paper.vv_axis, paper.stage1_levels, paper.stage1_cls_loss) == ("token", "sum", True)
    mixed = AACLIP(tiny, variant="paper", stage1_cls_loss=False, vv_axis="batch")
    assert (mixed.vv_axis, mixed.stage1_levels, mixed.stage1_cls_loss) == ("batch", "sum", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "both"}, "stage must be one of"),
        ({"variant": "arxiv"}, "variant must be one of"),
        ({"domain": "food"}, "domain must be one of"),
        ({"levels": [2, 1]}, r"levels must be increasing block numbers in 1..4 .*got \(2, 1\)"),
        ({"levels": [5]}, "levels must be increasing"),
        ({"image_adapters": 5}, "image_adapters must be in 0..4"),
        ({"text_adapters": 3}, "text_adapters must be in 0..2"),
        ({"lambda_image": 1.5}, "lambda_image must be in 0..1"),
        ({"vv_axis": "channel"}, "vv_axis must be one of"),
        ({"stage1_levels": "first"}, "stage1_levels must be one of"),
        ({"gamma": -1}, "gamma must be >= 0"),
        ({"blur": (4, 1.0)}, "blur must be"),
    ],
)
def test_wrong_options_are_named(tiny: Clip, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AACLIP(tiny, **options)


# ---- evaluation over the test set


def test_fused_scores_by_hand() -> None:
    maps, scores = torch.tensor([2.0, 6.0, 4.0]), torch.tensor([0.5, 0.6, 0.9])
    got = fused_scores(scores, maps, map_low=-2.0, map_high=6.0)
    torch.testing.assert_close(got, 0.5 * torch.tensor([0.5, 1.0, 0.75]) + 0.5 * torch.tensor([0.0, 0.25, 1.0]))


def test_nothing_is_normalised_whose_maximum_is_one() -> None:
    values = torch.tensor([0.25, 1.0])
    assert torch.equal(class_min_max(values, 0.25, 1.0).values, values)
    assert torch.equal(class_min_max(values, 0.25, 1.25).values, torch.tensor([0.0, 0.75]))


def test_constant_values_count_as_zero_and_are_reported() -> None:
    with pytest.warns(RuntimeWarning, match="All maps of the class are equal"):
        got = fused_scores(torch.tensor([0.2, 0.4]), torch.tensor([3.0, 3.0]), 3.0, 3.0)
    assert torch.equal(got, torch.tensor([0.0, 0.5]))


def test_fused_scores_of_unequal_length() -> None:
    with pytest.raises(ValueError, match=r"two vectors of equal length, got \(2,\) and \(3,\)"):
        fused_scores(torch.zeros(2), torch.zeros(3), 0, 2)


# ---- two stages


class KilledError(Exception):
    """Stands for a power cut."""


def fit(
    clip: Clip,
    stage: str,
    folder: Path,
    epochs: int = 2,
    resume: Path | None = None,
    kill: int | None = None,
    **options: Any,
) -> AACLIP:
    """Fit one stage on four generated pictures per batch; ``kill`` stops it in the middle of that epoch."""
    seed_everything(0)
    model = AACLIP(clip, stage=stage, lr=1e-3, **options)  # type: ignore[arg-type]
    if kill is not None:
        inner = model.training_step

        def step(batch: Any, batch_idx: int) -> Tensor:
            if model.current_epoch == kill and batch_idx == 1:
                raise KilledError
            return inner(batch, batch_idx)

        model.training_step = step  # type: ignore[method-assign]
    data = Synthetic(train_images=8, images=2, batch_size=4, augment=ColourJitter() if stage == "image" else None)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_last=True)],
    )
    if kill is None:
        trainer.fit(model, data, ckpt_path=resume)
    else:
        with pytest.raises(KilledError):
            trainer.fit(model, data, ckpt_path=resume)
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Path]:
    """Both stages, undisturbed: a folder with ``text/last.ckpt`` and ``image/last.ckpt``."""
    clip, folder = make_clip(), tmp_path_factory.mktemp("aaclip")
    fit(clip, "text", folder / "text")
    fit(clip, "image", folder / "image", text_checkpoint=folder / "text" / "last.ckpt")
    return clip, folder


def stored(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def test_killed_and_resumed_stages_end_alike(trained: tuple[Clip, Path], tmp_path: Path) -> None:
    clip, folder = trained
    text_file = folder / "text" / "last.ckpt"
    cases: dict[str, dict[str, Any]] = {"text": {}, "image": {"text_checkpoint": text_file}}
    for stage, options in cases.items():
        fit(clip, stage, tmp_path / stage, kill=1, **options)
        fit(clip, stage, tmp_path / stage, resume=tmp_path / stage / "last.ckpt", **options)
        expected, got = (stored(one / stage / "last.ckpt")["state_dict"] for one in (folder, tmp_path))
        assert set(expected) == set(got)
        for name, value in expected.items():
            assert torch.equal(value, got[name]), name
    start = AACLIP(clip).state_dict()
    assert not torch.equal(start["text_adapter.0.fc.0.weight"], expected["text_adapter.0.fc.0.weight"])
    assert not torch.equal(start["image_adapter.det_proj.fc.weight"], expected["image_adapter.det_proj.fc.weight"])


def test_second_stage_keeps_the_anchors_of_the_first(trained: tuple[Clip, Path]) -> None:
    clip, folder = trained
    first, second = (stored(folder / stage / "last.ckpt") for stage in ("text", "image"))
    assert all(
        torch.equal(first["state_dict"][name], value) for name, value in second["state_dict"].items() if "text" in name
    )
    assert second["state_dict"]["finished"].tolist() == [True, True]
    assert first["state_dict"]["finished"].tolist() == [True, False]
    model = AACLIP.load_from_checkpoint(folder / "image" / "last.ckpt", backbone=clip)
    classes = ["visa/pcb1", "mvtec_ad/pill", "cork"]
    known = model.text_features(classes)
    count = len(model._frozen)
    fresh = model.text_features(["unheard-of thing"])
    with torch.no_grad():
        for parameter in model.text_adapter.parameters():
            parameter.fill_(torch.nan)
    assert torch.equal(model.text_features(classes), known)  # no text tower needed
    assert torch.equal(model.text_features(["unheard-of thing"]), fresh)  # computed once, on demand
    assert len(model._frozen) == count + 1
    assert model.text_features(["another thing"]).isnan().all()
    with torch.no_grad():
        expected = make(clip, text_checkpoint=folder / "text" / "last.ckpt").anchors(classes)
    torch.testing.assert_close(known, expected, atol=1e-6, rtol=0)


def test_checkpoints_leave_the_way_of_evaluation_open(tiny: Clip) -> None:
    given: dict[str, Any] = {
        "domain": "medical",
        "benchmark": "visa",
        "blur": (5, 1.0),
        "templates": ["{}"],
        "abnormal_states": ["bad {}"],
    }
    assert not set(given) & set(AACLIP(tiny, **given).hparams)
    assert AACLIP(tiny).published_epochs == 5
    assert AACLIP(tiny, "image").published_epochs == 20


def test_other_prompts_do_not_take_the_frozen_anchors(trained: tuple[Clip, Path]) -> None:
    clip, folder = trained
    path = folder / "image" / "last.ckpt"
    usual, other = (
        AACLIP.load_from_checkpoint(path, backbone=clip, templates=one) for one in (None, ["there is a {}."])
    )
    assert not torch.allclose(usual.text_features(["cork"]), other.text_features(["cork"]), atol=1e-4)


def test_safetensors_round_trip(trained: tuple[Clip, Path], tmp_path: Path, image: Tensor) -> None:
    clip, folder = trained
    model = AACLIP.load_from_checkpoint(folder / "image" / "last.ckpt", backbone=clip)
    again = AACLIP.from_weights(model.save_weights(tmp_path / "aaclip.safetensors"), backbone=clip)
    assert len(again._frozen) == len(model._frozen) > 0
    for got, expected in zip(again(image, CLASSES), model(image, CLASSES), strict=True):
        assert torch.equal(got, expected)


def test_second_stage_starts_from_a_weights_file_too(trained: tuple[Clip, Path], tmp_path: Path) -> None:
    clip, folder = trained
    first = AACLIP.load_from_checkpoint(folder / "text" / "last.ckpt", backbone=clip)
    got, expected = (
        AACLIP(clip, "image", text_checkpoint=path)
        for path in (first.save_weights(tmp_path / "text.safetensors"), folder / "text" / "last.ckpt")
    )
    assert bool(got.finished[0])
    assert torch.equal(got.text_features(["cork"]), expected.text_features(["cork"]))


def test_unfinished_models_do_not_predict(trained: tuple[Clip, Path], image: Tensor) -> None:
    clip, folder = trained
    with pytest.warns(UntrainedWarning, match="not trained"):
        AACLIP(clip)(image, CLASSES)
    half = AACLIP.load_from_checkpoint(folder / "text" / "last.ckpt", backbone=clip)
    with pytest.raises(CheckpointError, match="has not finished its stage 'image'"):
        half(image, CLASSES)
    early = AACLIP.load_from_checkpoint(folder / "text" / "epoch=0.ckpt", backbone=clip)
    with pytest.raises(CheckpointError, match="has not finished its stage 'text'"):
        early(image, CLASSES)
    AACLIP.load_from_checkpoint(folder / "image" / "epoch=0.ckpt", backbone=clip)(image, CLASSES)  # any epoch is usable


def test_second_stage_needs_the_first(trained: tuple[Clip, Path], tmp_path: Path) -> None:
    clip, folder = trained
    with pytest.raises(CheckpointError, match="stage='image' starts from a finished first stage"):
        fit(clip, "image", tmp_path)
    with pytest.raises(ValueError, match="templates and abnormal_states are for evaluation"):
        fit(clip, "text", tmp_path, templates=["{}."])
    with pytest.raises(CheckpointError, match="text stage of that checkpoint is not finished"):
        AACLIP(clip, "image", text_checkpoint=folder / "text" / "epoch=0.ckpt")
    with pytest.raises(CheckpointError, match=r"trained with lambda_text=0.1, this model has 0.2"):
        AACLIP(clip, "image", text_checkpoint=folder / "text" / "last.ckpt", lambda_text=0.2)
    with pytest.raises(CheckpointError, match="cannot resume from a checkpoint of stage='text'"):
        fit(clip, "image", tmp_path, resume=folder / "text" / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"backbone 'tiny-test-0', this model has 'tiny-test-1'"):
        AACLIP(make_clip(seed=1), "image", text_checkpoint=folder / "text" / "last.ckpt")
    with pytest.raises(FileNotFoundError, match=r"No such checkpoint: 'nowhere.ckpt'"):
        AACLIP(clip, "image", text_checkpoint="nowhere.ckpt")


def test_plain_anchors_train_in_one_stage(tmp_path: Path, image: Tensor) -> None:
    clip = make_clip()
    model = fit(clip, "image", tmp_path, epochs=1, anchors="plain")
    loaded = AACLIP.load_from_checkpoint(tmp_path / "last.ckpt", backbone=clip)
    torch.testing.assert_close(loaded(image, CLASSES).pred_score, model(image, CLASSES).pred_score)


def test_stage_one_from_the_token_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the parameters of the uncached loop up to rounding, with one pass of the image tower per image."""
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    clip = make_clip()
    calls: dict[str, int] = {}
    models: dict[str, AACLIP] = {}
    for cache in ("off", "auto"):
        original: Callable[..., Any] = AACLIP.stage1_features

        def counted(model: AACLIP, image: Tensor, levels: Any, kind: str = cache, inner: Any = original) -> Any:
            calls[kind] = calls.get(kind, 0) + len(image)
            return inner(model, image, levels)

        with monkeypatch.context() as patch:
            patch.setattr(AACLIP, "stage1_features", counted)
            models[cache] = fit(clip, "text", tmp_path / cache, vv_axis="token", augment_p=0.0, cache=cache)
    assert calls == {"off": 16, "auto": 8}
    for one, other in zip(
        models["off"].text_adapter.parameters(), models["auto"].text_adapter.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_augmentation_differs_by_epoch_and_is_off_on_request(tiny: Clip, batch: dict[str, Any]) -> None:
    def seen(epoch: int, **options: Any) -> Tensor:
        changed = AACLIP(tiny, "image", **options).augmented(batch, epoch)  # type: ignore[arg-type]
        assert changed["gt_mask"].dtype == torch.bool
        return changed["image"]

    assert torch.equal(seen(0), seen(0))
    assert not torch.equal(seen(0), seen(1))
    assert not torch.equal(seen(0), seen(0, seed=5))
    assert torch.equal(seen(0, augment_p=0.0), batch["image"])


# ---- the authors' files


def write_authors_files(model: AACLIP, folder: Path) -> tuple[Path, Path]:
    text, image = folder / "text_adapter.pth", folder / "image_adapter_15.pth"
    state = torch.optim.Adam(model.text_adapter.parameters()).state_dict()
    torch.save({"epoch": 5, "text_adapter": model.text_adapter.state_dict(), "text_optimizer": state}, text)
    torch.save({"epoch": 15, "image_adapter": model.image_adapter.state_dict(), "image_optimizer": state}, image)
    return text, image


@pytest.mark.parametrize("relu", [False, True])
def test_authors_files(tiny: Clip, image: Tensor, tmp_path: Path, relu: bool) -> None:
    source = make(tiny, text_adapters=2, image_adapters=3, relu=relu, seed=7)
    text_file, image_file = write_authors_files(source, tmp_path)
    assert set(torch.load(text_file, weights_only=True)["text_adapter"]) == {f"{i}.fc.0.weight" for i in range(3)}
    names = {f"layer_adapters.{i}.fc.0.weight" for i in range(3)} | {
        f"seg_proj.{i}.fc.{'0.' * relu}weight" for i in range(4)
    }
    assert set(torch.load(image_file, weights_only=True)["image_adapter"]) == names | {
        f"det_proj.fc.{'0.' * relu}weight"
    }
    model = AACLIP.from_author_checkpoint(text_file, image_file, tiny)
    assert (len(model.text_adapter), len(model.image_adapter.layer_adapters)) == (3, 3)
    for got, expected in zip(model(image, CLASSES), source(image, CLASSES), strict=True):
        assert torch.equal(got, expected)


def test_a_loaded_authors_model_rebuilds_itself_from_its_checkpoint(tiny: Clip, image: Tensor, tmp_path: Path) -> None:
    files = write_authors_files(make(tiny, text_adapters=2, image_adapters=3, relu=True, seed=7), tmp_path)
    model = AACLIP.from_author_checkpoint(*files, tiny)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    for file in files:
        file.unlink()
    again = AACLIP.load_from_checkpoint(tmp_path / "mine.ckpt", backbone=tiny)
    assert torch.equal(again(image, CLASSES).anomaly_map, model(image, CLASSES).anomaly_map)


def test_unfit_authors_files_are_refused(tiny: Clip, tmp_path: Path) -> None:
    text_file, image_file = write_authors_files(make(tiny), tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no text_adapter: .* found \['epoch', 'image_adapter'"):
        AACLIP.from_author_checkpoint(image_file, image_file, tiny)
    with pytest.raises(CheckpointError, match=r"do not fit this model, first at '1.fc.0.weight'"):
        AACLIP.from_author_checkpoint(text_file, image_file, tiny, text_adapters=2)
    (tmp_path / "text.pth").write_text(json.dumps({"text_adapter": {}}))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        AACLIP.from_author_checkpoint(tmp_path / "text.pth", image_file, tiny)
