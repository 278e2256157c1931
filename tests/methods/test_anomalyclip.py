"""AnomalyCLIP: options, variants, losses, checkpoints without text tower, the authors' files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

from tests.conftest import make_clip
from zsad.clip import Clip
from zsad.clip.blocks import TwoPath, two_path
from zsad.methods import AnomalyCLIP, CheckpointError
from zsad.methods.anomalyclip import DpamAttention
from zsad.types import Batch

pytestmark = pytest.mark.filterwarnings("ignore::zsad.methods.trained.UntrainedWarning")


@pytest.fixture
def batch(image: Tensor) -> Batch:
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    mask[1, 4:12, 6:20] = mask[2, 20:, :9] = True
    return {
        "image": image,
        "class_name": ["nut", "nut", "pcb_1", "nut"],
        "image_path": list("abcd"),
        "gt_label": torch.tensor([0, 1, 1, 0]),
        "gt_mask": mask,
    }


def loss(model: AnomalyCLIP, batch: Batch) -> dict[str, float]:
    return {name: value.item() for name, value in model.loss(batch).items()}


# ---- options


def test_the_defaults_are_the_released_ones() -> None:
    clip = make_clip(layers=24)
    released, paper = AnomalyCLIP(clip), AnomalyCLIP(clip, variant="paper")
    assert (released.layers, released.local_loss_weight, released.first_block) == ((24,), 4.0, 6)
    assert (paper.layers, paper.local_loss_weight, paper.first_block) == ((6, 12, 18, 24), 1.0, 6)
    assert AnomalyCLIP(clip, variant="paper", local_loss_weight=2).local_loss_weight == 2


def test_shallow_towers_work_with_the_defaults(tiny: Clip, image: Tensor) -> None:
    model, paper = AnomalyCLIP(tiny), AnomalyCLIP(tiny, variant="paper")
    assert (model.layers, model.first_block, len(model.prompts.deep_tokens)) == ((4,), 2, 1)
    assert paper.layers == (1, 2, 3, 4)
    assert paper(image, ["a"] * 4).anomaly_map.max() <= 4
    assert paper.score_range == paper.evaluator.score_range == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"feature_layers": [6, 12, 18, 24]},
            r"feature_layers must rise and lie in 1..4 for 'tiny-test-0', got \[6, 12",
        ),
        ({"feature_layers": [3, 2]}, r"must rise"),
        ({"feature_layers": []}, r"got \[\]"),
        ({"dpam_attention": "vq"}, r"dpam_attention must be one of \('vv', 'qq', 'kk', 'qk'\) or a list .* got 'vq'"),
        ({"dpam_attention": ["vv", "vv"]}, "list of different ones"),
        ({"dpam_blocks": -1}, "dpam_blocks must be >= 0, got -1"),
        ({"variant": "newest"}, "variant must be 'released' or 'paper', got 'newest'"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
        ({"n_ctx": 76}, "n_ctx must be between 0 and 75 .* got 76"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"n_deep": 0}, "n_deep must be between 1 and 76, got 0"),
        ({"deep_token_cast": "int8"}, "deep_token_cast must be 'none' or 'float16', got 'int8'"),
    ],
)
def test_bad_options(tiny: Clip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnomalyCLIP(tiny, **options)


def test_a_prompt_that_is_too_long(tiny: Clip) -> None:
    with pytest.raises(
        ValueError, match=r"74 context vectors and 'damaged object\.' has 79 tokens, the text tower takes 77"
    ):
        AnomalyCLIP(tiny, n_ctx=74).text(["a"])


# ---- prompts


def test_prompt_texts(tiny: Clip) -> None:
    assert AnomalyCLIP(tiny, n_ctx=3).prompts.texts(["nut"]) == ["X X X object.", "X X X damaged object."]
    aware = AnomalyCLIP(tiny, n_ctx=0, normal_words="{}", abnormal_words="damaged {}")
    assert aware.prompts.texts(["metal_nut", "pcb1"]) == ["metal nut.", "damaged metal nut.", "pcb1.", "damaged pcb1."]


def test_without_learned_parts_the_prompts_are_plain_text(tiny: Clip) -> None:
    model = AnomalyCLIP(tiny, n_ctx=0, depth=1)
    expected = F.normalize(tiny.encode_prompts(["object.", "damaged object."]), dim=-1)
    torch.testing.assert_close(model.text(["anything"])[0], expected)


def test_only_object_aware_prompts_depend_on_the_class(tiny: Clip) -> None:
    agnostic = AnomalyCLIP(tiny).text(["nut", "pcb"])
    assert torch.equal(agnostic[0], agnostic[1])
    aware = AnomalyCLIP(tiny, normal_words="{}", abnormal_words="damaged {}")
    both = aware.text(["nut", "pcb"])
    assert not torch.allclose(both[0], both[1])
    torch.testing.assert_close(aware.batch_text(["pcb", "nut", "pcb"]), both[[1, 0, 1]])


def test_text_is_cut_without_a_trace(tiny: Clip) -> None:
    """All 77 positions give the same: the tower is causal."""
    prompts = AnomalyCLIP(tiny, n_ctx=4).prompts
    ids = tiny.tokenize(prompts.texts(["a"]))
    whole = tiny.project_text(tiny.run_text(prompts.embed(tiny, ids), ids, prompts.step(tiny, *ids.shape)))
    torch.testing.assert_close(prompts.encode(tiny, ["a"])[0], whole, atol=1e-6, rtol=1e-5)


def test_shared_context_is_one_tensor(tiny: Clip, batch: Batch) -> None:
    model = AnomalyCLIP(tiny, share_context=True, depth=1)
    assert [name for name, _ in model.prompts.named_parameters()] == ["ctx_normal"]
    model.loss(batch)["loss"].backward()
    assert model.prompts.ctx_normal.grad is not None


def test_gradients_reach_all_prompts_and_nothing_else(tiny: Clip, batch: Batch) -> None:
    model = AnomalyCLIP(tiny)
    model.loss(batch)["loss"].backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in model.prompts.parameters())
    assert all(value.grad is None for value in tiny.parameters())


def test_float16_cast_rounds_the_deep_tokens(tiny: Clip) -> None:
    plain, cast = AnomalyCLIP(tiny), AnomalyCLIP(tiny, deep_token_cast="float16")
    rounded = AnomalyCLIP(tiny)
    with torch.no_grad():
        for value in rounded.prompts.deep_tokens:
            value.copy_(value.half().float())
    assert not torch.equal(cast.text(["a"]), plain.text(["a"]))
    torch.testing.assert_close(cast.text(["a"]), rounded.text(["a"]), atol=1e-7, rtol=0)


# ---- maps


def test_the_side_path_is_a_sum_of_attention_outputs(tiny: Clip, image: Tensor) -> None:
    """Layer n's local tokens: the input of the first side block plus every later V-V attention, nothing else."""
    model = AnomalyCLIP(tiny, dpam_blocks=2, feature_layers=[2, 3, 4])
    _, tokens = model.image_tokens(image)
    x = tiny.embed_image(image)
    _, plain = tiny.run_image(x, keep=(1, 2, 3))
    stream = plain[2]
    for row, number in enumerate((3, 4), start=1):
        block: Any = tiny.model.visual.transformer.resblocks[number - 1]
        v = F.linear(block.ln_1(plain[number - 1]), block.attn.in_proj_weight, block.attn.in_proj_bias)[..., 64:]
        v = v.unflatten(-1, (4, 8)).transpose(1, 2)
        mixed = (v @ v.mT / 8**0.5).softmax(-1) @ v
        stream = stream + block.attn.out_proj(mixed.transpose(1, 2).flatten(2))
        expected = tiny.project(tiny.ln_post(stream))
        torch.testing.assert_close(tokens[:, row, 0], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[:, 0, 0], tiny.project(tiny.ln_post(plain[2])), atol=1e-5, rtol=1e-4)


def test_the_image_embedding_knows_nothing_of_the_side_path(tiny: Clip, image: Tensor) -> None:
    with_side, without = (
        AnomalyCLIP(tiny).image_tokens(image)[0],
        AnomalyCLIP(tiny, dpam_blocks=0).image_tokens(image)[0],
    )
    torch.testing.assert_close(with_side, without, atol=1e-5, rtol=1e-5)
    normal = AnomalyCLIP(tiny, cls_ln_post=True).image_tokens(image)[0]
    torch.testing.assert_close(normal, tiny.encode_image(image).cls, atol=1e-5, rtol=1e-5)


def test_dpam_blocks_are_counted_from_the_end_and_capped(tiny: Clip) -> None:
    assert [AnomalyCLIP(tiny, dpam_blocks=n).first_block for n in (0, 1, 4, 5, 19)] == [5, 4, 1, 2, 2]
    assert AnomalyCLIP(tiny, dpam_blocks=0).kinds == ("qk",)


def test_an_ensemble_averages_cosines(tiny: Clip, image: Tensor) -> None:
    kinds: list[DpamAttention] = ["qk", "qq", "kk", "vv"]
    model = AnomalyCLIP(tiny, dpam_attention=kinds, sigma=0.0)
    cosines = []
    text = model.text(["a"])[0]
    for kind in kinds:
        one = AnomalyCLIP(tiny, dpam_attention=kind)
        tokens = one.image_tokens(image)[1][:, 0, 0, 1:]
        cosines.append(F.normalize(tokens, dim=-1) @ text.T)
    prob = (torch.stack(cosines).mean(0) / 0.07).softmax(-1)[..., 1].unflatten(-1, (4, 4))
    expected = F.interpolate(prob[:, None], size=(32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(model(image, ["a"] * 4).anomaly_map, expected, atol=1e-5, rtol=0)


def test_layers_are_summed(tiny: Clip, image: Tensor) -> None:
    maps = [AnomalyCLIP(tiny, feature_layers=[n])(image, ["a"] * 4).anomaly_map for n in (1, 3, 4)]
    together = AnomalyCLIP(tiny, feature_layers=[1, 3, 4])(image, ["a"] * 4).anomaly_map
    torch.testing.assert_close(together, torch.stack(maps).sum(0), atol=1e-5, rtol=0)


def test_one_pass_computes_the_projection_of_each_block_once(
    tiny: Clip, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = F.linear

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.shape[0] == 3 * tiny.width:
            calls.append(x.shape)
        return real(x, weight, bias)

    monkeypatch.setattr(F, "linear", counted)
    state, _ = tiny.run_image(tiny.embed_image(image), two_path(1, ("vv",)))
    assert isinstance(state, TwoPath)
    assert len(calls) == tiny.depth


# ---- losses


def test_the_loss_is_its_parts(tiny: Clip, batch: Batch) -> None:
    parts = loss(AnomalyCLIP(tiny, feature_layers=[2, 4]), batch)
    local = sum(value for name, value in parts.items() if ".l" in name)
    assert parts["local"] == pytest.approx(4 * local, rel=1e-5)
    assert parts["loss"] == pytest.approx(parts["image"] + parts["local"], rel=1e-5)
    assert {name for name in parts if ".l" in name} == {
        f"{kind}.l{n}" for n in (2, 4) for kind in ("focal", "dice_abnormal", "dice_normal")
    }


def test_switches_leave_terms_out(tiny: Clip, batch: Batch) -> None:
    full = loss(AnomalyCLIP(tiny), batch)
    assert set(loss(AnomalyCLIP(tiny, focal_loss=False), batch)) == set(full) - {"focal.l4"}
    assert set(loss(AnomalyCLIP(tiny, dice_loss=False), batch)) == {"loss", "image", "local", "focal.l4"}
    assert set(loss(AnomalyCLIP(tiny, image_loss=False), batch)) == set(full) - {"image"}
    for options in ({"local_loss_weight": 0}, {"focal_loss": False, "dice_loss": False}):
        assert loss(AnomalyCLIP(tiny, **options), batch) == {"loss": full["image"], "image": full["image"]}
    with pytest.raises(ValueError, match="no loss left"):
        AnomalyCLIP(tiny, image_loss=False, local_loss_weight=0).loss(batch)


def test_a_batch_of_one_trains(tiny: Clip, batch: Batch) -> None:
    model = AnomalyCLIP(tiny)
    whole: dict[str, Any] = dict(batch)
    parts: list[Any] = [{key: value[i : i + 1] for key, value in whole.items()} for i in range(4)]
    alone = [loss(model, part)["loss"] for part in parts]
    assert loss(model, batch)["loss"] == pytest.approx(sum(alone) / 4, rel=1e-5)


def test_missing_labels_and_masks_are_named(tiny: Clip, batch: Batch) -> None:
    model = AnomalyCLIP(tiny)
    with pytest.raises(ValueError, match="pixel losses need gt_mask, a has none; local_loss_weight=0 trains"):
        model.loss({key: value for key, value in batch.items() if key != "gt_mask"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image loss needs gt_label, a has none"):
        model.loss({key: value for key, value in batch.items() if key != "gt_label"})  # type: ignore[arg-type]


def test_training_pulls_the_loss_down(tiny: Clip, batch: Batch) -> None:
    model = AnomalyCLIP(tiny, lr=1e-2)
    optimizer = model.configure_optimizers()
    before = model.loss(batch)["loss"].item()
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
    assert model.loss(batch)["loss"].item() < 0.9 * before


# ---- checkpoints


@pytest.mark.parametrize("kind", ["lightning", "safetensors"])
def test_inference_from_a_checkpoint_runs_no_text_tower(tiny: Clip, image: Tensor, tmp_path: Path, kind: str) -> None:
    model = AnomalyCLIP(tiny)
    expected = model(image, ["nut"] * 4)
    clip = make_clip()
    if kind == "lightning":
        running = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        running.strategy.connect(model)
        running.save_checkpoint(tmp_path / "a.ckpt")
        loaded = AnomalyCLIP.load_from_checkpoint(tmp_path / "a.ckpt", backbone=clip)
    else:
        loaded = AnomalyCLIP.from_weights(model.save_weights(tmp_path / "a.safetensors"), clip)

    def refuse(*args: Any) -> None:
        raise AssertionError("the text tower was asked")

    clip.model.transformer.register_forward_pre_hook(refuse)
    for block in clip.model.transformer.resblocks:
        block.ln_1.register_forward_pre_hook(refuse)
    got = loaded(image, ["nut", "pcb", "nut", "hazelnut"])
    torch.testing.assert_close(got.anomaly_map, expected.anomaly_map, atol=1e-6, rtol=0)
    with torch.no_grad():
        loaded.prompts.ctx_normal.add_(1)
    loaded.forget_text()
    with pytest.raises(AssertionError, match="the text tower was asked"):  # changed parameters are encoded anew
        loaded(image, ["nut"] * 4)


def author_state(width: int = 32, n_deep: int = 1, n_ctx: int = 5) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    state = {name: torch.randn(1, 1, n_ctx, width, generator=random) for name in ("ctx_pos", "ctx_neg")}
    state |= {f"compound_prompts_text.{i}": torch.randn(4, width, generator=random) for i in range(n_deep)}
    return state | {"compound_prompt_projections.0.weight": torch.zeros(896, width)}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_authors_files(tiny: Clip, tmp_path: Path, prefix: str, wrapped: bool) -> None:
    state = author_state()
    content: Any = {prefix + name: value for name, value in state.items()}
    torch.save({"prompt_learner": content} if wrapped else content, tmp_path / "epoch_15.pth")
    model = AnomalyCLIP.from_author_checkpoint(tmp_path / "epoch_15.pth", tiny)
    assert torch.equal(model.prompts.ctx_normal, state["ctx_pos"][0, 0])
    assert torch.equal(model.prompts.ctx_abnormal, state["ctx_neg"][0, 0])
    assert torch.equal(model.prompts.deep_tokens[0], state["compound_prompts_text.0"])
    assert (model.hparams["n_ctx"], model.hparams["depth"], model.hparams["n_deep"]) == (5, 2, 4)


def test_the_authors_files_that_do_not_fit(tiny: Clip, tmp_path: Path) -> None:
    path = tmp_path / "epoch_15.pth"
    with pytest.raises(FileNotFoundError, match="No such checkpoint"):
        AnomalyCLIP.from_author_checkpoint(path, tiny)
    torch.save({"prompt_learner": author_state(width=48)}, path)
    with pytest.raises(CheckpointError, match="prompts of width 48, the text tower of 'tiny-test-0' has width 32"):
        AnomalyCLIP.from_author_checkpoint(path, tiny)
    torch.save({"prompt_learner": author_state(n_deep=8)}, path)
    with pytest.raises(
        CheckpointError, match="holds 8 deep token tensors, 'tiny-test-0' has 2 text blocks and takes 1"
    ):
        AnomalyCLIP.from_author_checkpoint(path, tiny)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"no checkpoint of AnomalyCLIP's released code: 'ctx_pos' is missing"):
        AnomalyCLIP.from_author_checkpoint(path, tiny)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="no state dict of AnomalyCLIP's prompt learner, but list"):
        AnomalyCLIP.from_author_checkpoint(path, tiny)


class _Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code ran')",))


def test_the_authors_files_run_no_code(tiny: Clip, tmp_path: Path) -> None:
    path = tmp_path / "epoch_15.pth"
    path.write_bytes(pickle.dumps({"prompt_learner": _Evil()}))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        AnomalyCLIP.from_author_checkpoint(path, tiny)


def test_prompts_of_another_clip_or_other_words_are_noticed(tiny: Clip, tmp_path: Path) -> None:
    path, state = tmp_path / "epoch_15.pth", author_state()
    model = AnomalyCLIP(tiny, n_ctx=5)
    ids = tiny.tokenize(model.prompts.texts(["object"]))
    state["tokenized_prompts_neg"] = ids[1].int()[None, None]
    state["token_suffix_neg"] = tiny.embed_text(ids[1, 6:])[None, None]
    torch.save(state, path)
    AnomalyCLIP.from_author_checkpoint(path, tiny)
    with pytest.warns(UserWarning, match="trained with another CLIP than 'tiny-test-8'"):
        AnomalyCLIP.from_author_checkpoint(path, make_clip(seed=8))
    with pytest.warns(UserWarning, match="trained with other words than 'flawed object'"):
        AnomalyCLIP.from_author_checkpoint(path, tiny, abnormal_words="flawed object")
