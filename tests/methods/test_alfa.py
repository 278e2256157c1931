"""ALFA: choice of prompts, aligner, windows, explanations, and what a run logs and stores."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader

from tests.conftest import make_clip
from tests.llm.test_llm import KEY, Server, by_label, server
from zsad.benchmark.grid import MethodSpec
from zsad.clip import Clip
from zsad.functional.windows import window_indices
from zsad.llm import OfflineError
from zsad.methods import ALFA
from zsad.methods.alfa.aligner import align
from zsad.methods.alfa.selection import prototypes, select_prompts

__all__ = ["server"]  # the fixture

FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures" / "alfa"
NAMES = ["bottle", "leather", "unheard_of_3", "bottle"]


@pytest.fixture(scope="module")
def alfa(tiny: Clip) -> ALFA:
    return ALFA(tiny, temperature=1.0).eval()  # random weights: at 0.07 all scores would be near 0


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- prompts


def test_prompts_are_those_of_the_fixture(alfa: ALFA) -> None:
    with safe_open(FIXTURES / "e2e.safetensors", "pt") as file:
        stored = json.loads(file.metadata()["prompts"])
    assert alfa.class_prompts("bottle")._asdict() == stored


def test_text_is_padded_with_zeros_per_side(alfa: ALFA) -> None:
    text = alfa.text(NAMES).unflatten(1, (2, -1))
    assert text.shape == (4, 2, 92, alfa.clip.dim)  # 88 for bottle, 92 for a class without packaged answers
    assert text.any(dim=-1).sum(dim=-1).tolist() == [[88, 88], [88, 88], [92, 92], [88, 88]]
    torch.testing.assert_close(text.norm(dim=-1)[2], torch.ones(2, 92))
    alone = alfa.text(["bottle"]).unflatten(1, (2, -1))
    assert alone.shape[2] == 88
    assert torch.equal(alone[0], text[0, :, :88])
    assert torch.equal(text[0], text[3])


def test_switches_of_table_2(tiny: Clip) -> None:
    assert len(ALFA(tiny, use_llm=False).class_prompts("bottle").normal) == 72
    assert len(ALFA(tiny, use_template=False).class_prompts("bottle").normal) == 16
    assert ALFA(tiny, one_class=True).class_prompts("bottle") == (["A normal image of a bottle"], [])


# ---- choice of prompts


def reference_selection(normal: list[float], abnormal: list[float], empty: str) -> tuple[list[bool], list[bool]]:
    """Section 3.2 in words, without tensors."""
    kept = (
        [not min(abnormal) <= d <= max(abnormal) for d in normal],
        [not min(normal) <= d <= max(normal) for d in abnormal],
    )
    if empty == "both" and not (any(kept[0]) and any(kept[1])):
        return [True] * len(normal), [True] * len(abnormal)
    return kept[0] if any(kept[0]) else [True] * len(normal), kept[1] if any(kept[1]) else [True] * len(abnormal)


@pytest.mark.parametrize("empty", ["both", "side"])
def test_selection_equals_the_definition(empty: Any) -> None:
    similarity = random(200, 2, 7).mul(4).round() / 4  # coarse, so that ties and nesting are frequent
    lengths = torch.randint(1, 8, (200, 2), generator=torch.Generator().manual_seed(3))
    valid = torch.arange(7) < lengths[..., None]
    used = select_prompts(similarity, valid, 1.0, empty).used
    for row in range(200):
        n, a = lengths[row].tolist()
        expected = reference_selection(similarity[row, 0, :n].tolist(), similarity[row, 1, :a].tolist(), empty)
        assert (used[row, 0, :n].tolist(), used[row, 1, :a].tolist()) == expected
    assert not (used & ~valid).any()


def test_score_is_the_distance_to_the_other_interval() -> None:
    similarity = torch.tensor([[[0.1, 0.2, 0.4], [0.3, 0.5, 0.9]]])
    chosen = select_prompts(similarity, torch.ones(1, 2, 3, dtype=torch.bool), k=3.0)
    torch.testing.assert_close(chosen.delta, torch.tensor([[[0.2, 0.1, 0.0], [0.0, 0.1, 0.5]]]))
    torch.testing.assert_close(chosen.score, 2 * torch.sigmoid(3 * chosen.delta) - 1)


def test_selection_ignores_scale_shift_and_slope() -> None:
    similarity, valid = random(50, 2, 9).round(decimals=1) / 8, torch.ones(50, 2, 9, dtype=torch.bool)
    base = select_prompts(similarity, valid)
    moved = select_prompts(similarity * 4 + 2, valid, k=50.0)  # exact in float32
    assert torch.equal(base.keep, moved.keep)


def test_unused_prompts_inside_both_intervals_change_nothing() -> None:
    similarity = torch.tensor([[[0.1, 0.2, 0.4], [0.3, 0.5, 0.9]]])
    more = torch.cat([similarity, torch.tensor([[[0.35], [0.32]]])], dim=2)
    few = select_prompts(similarity, torch.ones(1, 2, 3, dtype=torch.bool)).used
    many = select_prompts(more, torch.ones(1, 2, 4, dtype=torch.bool)).used
    assert torch.equal(many[..., :3], few)
    assert not many[..., 3].any()


def test_prototypes_are_masked_means() -> None:
    text = F.normalize(random(2, 2, 5, 8), dim=-1)
    used = torch.tensor([[[1, 0, 1, 0, 0], [1, 1, 1, 1, 1]], [[0, 0, 0, 0, 1], [0, 1, 1, 0, 0]]]).bool()
    plain = prototypes(text, used, renormalise=False)
    for b, s in itertools.product(range(2), range(2)):
        torch.testing.assert_close(plain[b, s], text[b, s][used[b, s]].mean(dim=0))
    torch.testing.assert_close(prototypes(text, used), F.normalize(plain, dim=-1))


def test_order_of_prompts_does_not_matter(alfa: ALFA, image: Tensor) -> None:
    context: Any = type("C", (), {"class_names": NAMES})
    text = alfa.text(NAMES).unflatten(1, (2, -1))
    order = torch.randperm(text.shape[2], generator=torch.Generator().manual_seed(5))
    first = alfa.score(image, text.flatten(1, 2), context)
    second = alfa.score(image, text[:, :, order].flatten(1, 2), context)
    torch.testing.assert_close(second.anomaly_map, first.anomaly_map, atol=2e-6, rtol=0)
    torch.testing.assert_close(second.pred_score, first.pred_score, atol=2e-6, rtol=0)


# ---- aligner


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(random(*shape, seed=seed), dim=-1)


@pytest.mark.parametrize("prior", ["identity", "zero"])
@pytest.mark.parametrize("ridge", [1.0, 0.1, 1e-3])
def test_aligner_solves_the_normal_equations(prior: Any, ridge: float) -> None:
    g, local, f = unit(3, 4, 5, 24, seed=1), unit(3, 4, 5, 24, seed=2), unit(3, 2, 24, seed=3)
    start = (torch.eye(24) if prior == "identity" else torch.zeros(24, 24)).double()
    # gradient zero: W (G^T G + ridge I) = L^T G + ridge W0, a full d x d system per window
    left = g.double().mT @ g.double() + ridge * torch.eye(24).double()
    right = local.double().mT @ g.double() + ridge * start
    w = torch.linalg.solve(left, right, left=False)
    expected = torch.einsum("bwij,bsj->bwsi", w, f.double())
    torch.testing.assert_close(align(f, g, local, ridge, prior).double(), expected, atol=2e-5, rtol=0)


def test_small_ridge_maps_tokens_onto_tokens() -> None:
    g, local = unit(2, 5, 24, seed=1), unit(2, 5, 24, seed=2)
    for prior in ("identity", "zero"):
        mapped = torch.stack([align(g[w], g[w : w + 1], local[w : w + 1], 1e-6, prior)[0] for w in range(2)])
        torch.testing.assert_close(mapped, local, atol=1e-4, rtol=0)


def test_identity_prior_leaves_prompts_without_evidence() -> None:
    g, local, f = unit(4, 5, 24, seed=1), unit(4, 5, 24, seed=2), unit(2, 24, seed=3)
    torch.testing.assert_close(align(f, g, g), f.expand(4, -1, -1))
    torch.testing.assert_close(align(f, g, local, ridge=1e6), f.expand(4, -1, -1), atol=1e-5, rtol=0)


def test_large_ridge_is_the_aligner_off(tiny: Clip, image: Tensor) -> None:
    off = ALFA(tiny, use_aligner=False, temperature=1.0)(image, NAMES)
    almost = ALFA(tiny, ridge=1e6, temperature=1.0)(image, NAMES)
    torch.testing.assert_close(almost.anomaly_map, off.anomaly_map, atol=1e-5, rtol=0)
    on = ALFA(tiny, temperature=1.0)(image, NAMES)
    assert (on.anomaly_map - off.anomaly_map).abs().max() > 1e-3


# ---- windows


def test_a_window_is_a_pass_of_its_own_tokens(alfa: ALFA, image: Tensor) -> None:
    visual = alfa.clip.model.visual
    embedded = alfa.clip.embed_image(image, ln_pre=False)
    index = window_indices((4, 4), 2)
    seen = alfa.look_at_windows(embedded, index)
    tokens = torch.cat([embedded[1:2, :1], embedded[1:2, 1 + index[4]]], dim=1)
    state = visual.ln_pre(tokens)
    expected = visual.ln_post(visual.transformer(state)[:, 0]) @ visual.proj
    torch.testing.assert_close(seen.embedding[1, 4], F.normalize(expected[0], dim=-1), atol=1e-5, rtol=0)
    for block in visual.transformer.resblocks[:-1]:
        state = block(state)
    last, width = visual.transformer.resblocks[-1], alfa.clip.width
    v = last.ln_1(state) @ last.attn.in_proj_weight[2 * width :].T + last.attn.in_proj_bias[2 * width :]
    values = visual.ln_post(v @ last.attn.out_proj.weight.T + last.attn.out_proj.bias) @ visual.proj
    assert seen.values is not None
    torch.testing.assert_close(seen.values[1, 4], F.normalize(values[0], dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [1, 5, 10_000])
def test_chunks_change_nothing(alfa: ALFA, tiny: Clip, image: Tensor, chunk: int) -> None:
    expected, got = alfa(image, NAMES), ALFA(tiny, window_chunk=chunk, temperature=1.0)(image, NAMES)
    torch.testing.assert_close(got.anomaly_map, expected.anomaly_map, atol=2e-6, rtol=0)
    torch.testing.assert_close(got.pred_score, expected.pred_score, atol=2e-6, rtol=0)


def test_windows_must_fit(tiny: Clip, image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"5 x 5 patches does not fit into a grid of 4 x 4"):
        ALFA(tiny, scales=(5,))(image, NAMES)


def test_a_grid_need_not_be_square(alfa: ALFA) -> None:
    assert alfa(random(1, 3, 24, 40), ["bottle"]).anomaly_map.shape == (1, 24, 40)


def test_a_tower_of_one_block_works(image: Tensor) -> None:
    assert ALFA(make_clip(layers=1))(image, NAMES).anomaly_map.isfinite().all()


def test_image_score_and_global_map(tiny: Clip, image: Tensor) -> None:
    options: dict[str, Any] = {"use_aligner": False, "temperature": 1.0}
    both, whole, peak = (ALFA(tiny, image_score=kind, **options)(image, NAMES) for kind in ("both", "global", "map"))
    torch.testing.assert_close(both.pred_score, (whole.pred_score + peak.pred_score) / 2)
    mixed = ALFA(tiny, include_global_in_map=True, **options)(image, NAMES)
    low = torch.minimum(both.anomaly_map.amin(dim=(1, 2)), whole.pred_score)
    high = torch.maximum(both.anomaly_map.amax(dim=(1, 2)), whole.pred_score)
    assert (mixed.anomaly_map.amin(dim=(1, 2)) >= low - 1e-6).all()
    assert (mixed.anomaly_map.amax(dim=(1, 2)) <= high + 1e-6).all()
    assert (mixed.anomaly_map - both.anomaly_map).abs().max() > 1e-4


def test_autocast_touches_the_trunk_only(alfa: ALFA, image: Tensor) -> None:
    expected = alfa(image, NAMES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = alfa(image, NAMES)
    assert got.anomaly_map.dtype == got.pred_score.dtype == torch.float32
    assert got.anomaly_map.isfinite().all()
    assert (got.pred_score - expected.pred_score).abs().max() < 0.3


def test_a_broken_image_spoils_nobody_else(alfa: ALFA, image: Tensor) -> None:
    expected = alfa(image, NAMES)
    broken = image.clone()
    broken[2] = torch.nan
    got = alfa(broken, NAMES)
    assert got.pred_score[2].isnan()
    rest = [0, 1, 3]
    torch.testing.assert_close(got.anomaly_map[rest], expected.anomaly_map[rest], atol=2e-6, rtol=0)


def test_one_class_design(tiny: Clip, image: Tensor) -> None:
    model = ALFA(tiny, one_class=True)
    prediction = model(image, ["bottle"] * 4)
    cosine = F.cosine_similarity(
        tiny.model.encode_image(image), tiny.encode_prompts(["A normal image of a bottle"]), dim=-1
    )
    torch.testing.assert_close(prediction.pred_score, (1 - cosine) / 2, atol=1e-6, rtol=0)
    assert not prediction.anomaly_map.any()


# ---- few-shot


def test_references_change_the_map_and_not_the_global_score(tiny: Clip, image: Tensor) -> None:
    zero, few = (ALFA(tiny, image_score="global", temperature=1.0) for _ in range(2))
    for name in set(NAMES):
        few.fit_references(name, random(2, 3, 32, 32, seed=9))
    before, after = zero(image, NAMES), few(image, NAMES)
    torch.testing.assert_close(after.pred_score, before.pred_score, atol=1e-6, rtol=0)
    assert (before.anomaly_map - after.anomaly_map).abs().max() > 1e-3


def test_a_reference_itself_has_no_distance(tiny: Clip, image: Tensor) -> None:
    zero, few = ALFA(tiny, temperature=1.0), ALFA(tiny, temperature=1.0)
    few.fit_references("bottle", image)
    names = ["bottle"] * 4
    before, after = zero(image, names), few(image, names)
    torch.testing.assert_close(after.anomaly_map, before.anomaly_map / 2, atol=1e-6, rtol=0)


# ---- explanations


def test_explanations_are_the_nearest_descriptors(alfa: ALFA, image: Tensor) -> None:
    found = alfa.explain(image, NAMES, top_k=3)
    assert [len(one) for one in found] == [3] * 4
    descriptors = alfa.writer.describe("bottle")
    text = alfa.clip.encode_prompts([f"An image of a bottle with {text}" for text in descriptors])
    cosines = F.cosine_similarity(alfa.clip.model.encode_image(image[3:]), text, dim=-1)
    shares = torch.log_softmax(cosines / 1.0, dim=0)  # the fixture's temperature
    best = cosines.argsort(descending=True)[:3].tolist()
    assert [one.descriptor for one in found[3]] == [descriptors[i] for i in best]
    assert [one.cosine for one in found[3]] == pytest.approx(cosines[best].tolist(), abs=1e-6)
    assert [one.log_prob for one in found[3]] == pytest.approx(shares[best].tolist(), abs=1e-4)
    assert len(alfa.explain(image[:1], ["bottle"], top_k=100)[0]) == len(descriptors)


def test_explaining_what_was_scored_encodes_nothing_again(tiny: Clip, image: Tensor) -> None:
    alfa, passes = ALFA(tiny), []
    handle = tiny.model.visual.conv1.register_forward_hook(lambda *_: passes.append(1))
    try:
        alfa(image, NAMES)
        found = alfa.explain(image, NAMES)
        assert len(passes) == 1
        copy = image.clone()
        assert [[one.descriptor for one in row] for row in alfa.explain(copy, NAMES)] == [
            [one.descriptor for one in row] for row in found
        ]
        assert len(passes) == 2
        alfa(copy, NAMES)
        copy.mul_(-1)  # another picture in the same tensor
        alfa.explain(copy, NAMES)
        assert len(passes) == 4
    finally:
        handle.remove()


def test_explain_checks_its_arguments(alfa: ALFA, image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"got 1 names? for 4 images"):
        alfa.explain(image, ["bottle"])
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        alfa.explain(image, NAMES, top_k=0)


# ---- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_template": False, "use_llm": False}, "ALFA has no prompts"),
        ({"ridge": 0.0}, r"ridge must be at least 1e-6, got 0\.0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"k": -1.0}, "k must be above 0"),
        ({"scales": []}, "scales must be different"),
        ({"scales": [2, 2]}, "scales must be different"),
        ({"empty": "none"}, r"empty must be one of \['both', 'side'\], got 'none'"),
        ({"prior": "one"}, "prior must be one of"),
        ({"prototype": "median"}, "prototype must be one of"),
        ({"image_score": "max"}, "image_score must be one of"),
        ({"window_chunk": 0}, "window_chunk must be at least 1"),
        ({"llm": "gpt"}, "Unknown language model 'gpt'"),
        ({"llm_cache": "always"}, "cache mode must be one of"),
    ],
)
def test_options_are_checked(tiny: Clip, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ALFA(tiny, **options)


def test_number_of_sentences_of_table_3(tiny: Clip) -> None:
    for spec in MethodSpec.parse_all(str(Path(__file__).parents[2] / "benchmarks" / "ablations" / "alfa_table3.yaml")):
        model = ALFA(tiny, **spec.options)
        assert (model.writer.least, model.writer.most) == (74, 74)
        assert model.writer.consistent == spec.options.get("syntactic_consistency", True)


def test_there_is_nothing_to_fit(tiny: Clip) -> None:
    with pytest.raises(TypeError, match="ALFA is training-free"):
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1).fit(ALFA(tiny), batches())


# ---- runs


def batches() -> DataLoader[Any]:
    images = random(4, 3, 32, 32, seed=1)
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    mask[2:, :8, :8] = True
    rows = [
        {
            "image": images[[i, 3 - i]],
            "class_name": [["part_1", "bottle"], ["bottle", "part_1"]][i],
            "image_path": [f"{i}.png", f"{3 - i}.png"],
            "gt_label": torch.tensor([0, 1]),
            "gt_mask": mask[[i, 3 - i]],
        }
        for i in range(2)
    ]
    return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]


class Facts:
    readable = {"part_1": "steel part"}  # noqa: RUF012


class Data(LightningDataModule):
    """A benchmark that suggests a readable name."""

    facts = Facts()

    def test_dataloader(self) -> DataLoader[Any]:
        return batches()


def run(model: ALFA, folder: Path) -> dict[str, float]:
    trainer = Trainer(
        accelerator="cpu", logger=CSVLogger(folder), enable_progress_bar=False, enable_model_summary=False
    )
    (result,) = trainer.test(model, Data(), verbose=False)
    return dict(result)


def test_a_run_logs_its_choices_and_prompts(tiny: Clip, tmp_path: Path) -> None:
    result = run(ALFA(tiny, metrics="exact"), tmp_path)
    assert 0 <= result["alfa/fallback_rate"] <= 1
    kept = {name: value for name, value in result.items() if name.startswith("alfa/kept")}
    assert set(kept) == {f"alfa/kept_{side}/{name}" for side in ("normal", "abnormal") for name in ("bottle", "part_1")}
    assert all(0 <= value <= 92 for value in kept.values())
    (path,) = tmp_path.rglob("alfa_prompts.json")
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["llm"] == "packaged"
    assert stored["prompts"]["part_1"]["abnormal"][0] == "An image of an abnormal steel part"
    again = run(ALFA(tiny, use_scoring=False, metrics="exact"), tmp_path)
    assert not [name for name in again if name.startswith("alfa/")]


def test_the_users_name_goes_before_the_benchmarks(tiny: Clip, tmp_path: Path) -> None:
    model = ALFA(tiny, readable={"part_1": "bracket"}, metrics="exact")
    run(model, tmp_path)
    assert model.class_prompts("part_1").normal[0] == "An image of a normal bracket"


def test_a_filled_cache_needs_no_network_and_repeats_the_numbers(server: Server, tiny: Clip, tmp_path: Path) -> None:
    server.replies = [by_label()]
    options: dict[str, Any] = {
        "llm": {"backend": "openai", "model": "test-model", "base_url": server.url, "retries": 0},
        "cache_dir": tmp_path / "cache",
    }
    first = run(ALFA(tiny, **options), tmp_path)
    count = len(server.requests)
    assert count == 4
    assert run(ALFA(tiny, **options), tmp_path) == first
    assert run(ALFA(tiny, llm_cache="offline", **options), tmp_path) == first
    assert len(server.requests) == count
    with pytest.raises(OfflineError, match="another part"):
        ALFA(tiny, llm_cache="offline", **options).text(["another_part"])


def test_checkpoints_and_logs_hold_no_key_and_no_object(server: Server, tiny: Clip, tmp_path: Path) -> None:
    server.replies = [by_label()]
    llm = {"backend": "openai", "model": "test-model", "base_url": server.url}
    model = ALFA(tiny, llm=llm, cache_dir=str(tmp_path / "cache"))
    run(model, tmp_path / "log")
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    trainer = model.trainer
    trainer.save_checkpoint(tmp_path / "alfa.ckpt")
    stored = torch.load(tmp_path / "alfa.ckpt", weights_only=True)
    assert stored["hyper_parameters"]["llm"]["model"] == "test-model"
    assert not stored["state_dict"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"alfa.ckpt", "hparams.yaml", "alfa_prompts.json"} <= {path.name for path in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    given: dict[str, Any] = {
        "llm": llm,
        "cache_dir": str(tmp_path / "cache"),
    }  # a file never decides where questions go
    again = ALFA.load_from_checkpoint(tmp_path / "alfa.ckpt", backbone=tiny, **given)
    assert again.writer.llm == model.writer.llm


def test_moving_the_model_forgets_embeddings_and_keeps_prompts(tiny: Clip) -> None:
    model = ALFA(make_clip(seed=3))
    model.text(["bottle"])
    written = model.class_prompts("bottle")
    model.to(torch.float64)
    assert not model._text
    assert model.class_prompts("bottle") is written
    assert model(random(1, 3, 32, 32).double(), ["bottle"]).pred_score.dtype == torch.float32
