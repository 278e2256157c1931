"""AdaCLIP beyond what the fixtures pin: where prompts act, what learns, randomness, training, the authors' files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.methods.test_trained import Curve, Module, trainer
from tests.parity import tiny_clip
from tests.parity.runner import read_cases
from zsad.clip import Clip
from zsad.clip.blocks import append_prompts
from zsad.clip.loading import model_config
from zsad.methods import AdaCLIP, CheckpointError
from zsad.methods.adaclip.author import AUTHOR_DATA, adaclip_shapes
from zsad.methods.author_files import convert
from zsad.types import Batch
from zsad.weights import list_weights
from zsad.weights.checkpoints import read_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # untrained models say that they are

NAMES = ["metal_nut", "tile", "metal_nut", "pcb-1"]
FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures" / "adaclip"


@pytest.fixture
def batch(image: Tensor) -> Batch:
    """A batch with a square defect in two images."""
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    mask[[0, 2], 8:20, 8:20] = True
    labels = torch.tensor([1, 0, 1, 0])
    return cast(
        Batch, {"image": image, "class_name": NAMES, "image_path": list("abcd"), "gt_mask": mask, "gt_label": labels}
    )


def learned(model: AdaCLIP) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# ---- where prompts act


@torch.no_grad()
def test_appended_prompts_against_a_loop_by_hand(tiny: Clip, image: Tensor) -> None:
    prompts = [torch.randn(4, 3, tiny.width, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    first, second, third, fourth = tiny.model.visual.transformer.resblocks
    x = first(torch.cat([tiny.embed_image(image), prompts[0]], dim=1))
    x = second(torch.cat([x[:, :17], prompts[1]], dim=1))
    expected = fourth(third(x))
    got, kept = tiny.run_image(tiny.embed_image(image), append_prompts(prompts), keep=(2,))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert kept[2].shape == (4, 20, tiny.width)
    alone, _ = tiny.run_image(tiny.embed_image(image), append_prompts([one[0] for one in prompts]))
    torch.testing.assert_close(alone[0], expected[0], atol=1e-5, rtol=0)
    assert torch.equal(
        tiny.run_image(tiny.embed_image(image), append_prompts([]))[0], tiny.run_image(tiny.embed_image(image))[0]
    )


def test_the_text_follows_the_image_only_with_dynamic_prompts_in_its_tower(tiny: Clip, image: Tensor) -> None:
    names = ["tile"] * 4
    for options, follows in (
        ({}, True),
        ({"prompt_type": "D"}, True),
        ({"branch": "L"}, True),
        ({"prompt_type": "S"}, False),
        ({"branch": "V"}, False),
        ({"branch": ""}, False),
        ({"depth": 1}, False),
    ):
        model = AdaCLIP(tiny, **options)
        assert model.text_follows_image is follows
        text = model.see(image, names).text
        if follows:
            assert (text[0] - text[1]).abs().max() > 1e-4
        else:
            torch.testing.assert_close(text, model.text(names), atol=1e-6, rtol=0)
            assert torch.equal(text[0], text[1])
        assert bool(model._text) is not follows  # vectors that belong to an image are not kept per class


def test_each_tower_has_prompts_of_its_own(tiny: Clip, image: Tensor) -> None:
    plain = AdaCLIP(tiny, branch="").see(image, NAMES)
    torch.testing.assert_close(plain.cls, tiny.encode_image(image).cls, atol=1e-5, rtol=0)
    visual, textual = (AdaCLIP(tiny, branch=branch).see(image, NAMES) for branch in ("V", "L"))
    assert torch.equal(textual.cls, plain.cls)
    assert torch.equal(visual.text, plain.text)
    assert (visual.cls - plain.cls).abs().max() > 1e-3
    assert (textual.text - plain.text).abs().max() > 1e-3


def test_purely_dynamic_prompts_are_the_sum_without_its_static_part(tiny: Clip, image: Tensor) -> None:
    hybrid, dynamic = AdaCLIP(tiny), AdaCLIP(tiny, prompt_type="D")
    state = {name: value for name, value in hybrid.state_dict().items() if name in dynamic.state_dict()}
    dynamic.load_state_dict(state)
    for parameter in (*hybrid.text_prompter.parameters(), *hybrid.visual_prompter.parameters()):
        parameter.data.zero_()
    for mine, theirs in zip(dynamic.see(image, NAMES), hybrid.see(image, NAMES), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_the_depth_is_that_of_the_towers_and_one_block_prompts_the_image_alone(tiny: Clip) -> None:
    model = AdaCLIP(tiny, depth=9)
    assert model.depth == tiny.text_depth == 2
    assert len(model.visual_prompter.static_prompts) == 2
    assert not AdaCLIP(tiny, depth=1, length=9).text_has_prompts


# ---- what learns


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({}, {"text_prompter.static_prompts.0"}),
        ({"prompt_type": "S"}, {"text_prompter.static_prompts.0"}),
        ({"branch": "V"}, {"dynamic_text_prompt_generator"}),
        ({"branch": "L"}, {"text_prompter.static_prompts.0", "dynamic_visual_prompt_generator"}),
        ({"depth": 1}, {"text_prompter.static_prompts.0", "dynamic_text_prompt_generator"}),
        ({"branch": ""}, {"dynamic_text_prompt_generator", "dynamic_visual_prompt_generator"}),
        ({"branch": "V", "prompt_type": "S"}, set()),
        ({"prompt_type": "D"}, set()),
    ],
)
def test_what_nothing_reads_stays_in_the_file_and_out_of_the_optimiser(
    tiny: Clip, batch: Batch, options: dict[str, Any], idle: set[str]
) -> None:
    model = AdaCLIP(tiny, **options)
    unused = {name for name in model.state_dict() if any(name.startswith(one) for one in idle)}
    model.loss(batch)["loss"].backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == learned(model) == set(model.state_dict()) - unused
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters() if parameter.grad is not None)
    before = {name: model.state_dict()[name].clone() for name in unused}
    model.configure_optimizers().step()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_training_lowers_the_loss(tiny: Clip, batch: Batch) -> None:
    model = AdaCLIP(tiny)
    optimizer = model.configure_optimizers()
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(model.loss(batch)["loss"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_without_labels_the_mask_says_it_and_without_mask_nothing_does(tiny: Clip, batch: Batch) -> None:
    model = AdaCLIP(tiny)
    without = cast(Batch, {key: value for key, value in batch.items() if key != "gt_label"})
    assert model.loss(without)["loss"] == model.loss(batch)["loss"]
    with pytest.raises(ValueError, match="AdaCLIP learns from gt_mask, a has none"):
        model.loss(cast(Batch, {key: value for key, value in without.items() if key != "gt_mask"}))


def test_dice_over_rows_is_dice_over_images_one_row_high(tiny: Clip, batch: Batch) -> None:
    rows, images = (AdaCLIP(tiny, dice_over=over) for over in ("rows", "images"))
    by_row, by_image = rows.loss(batch), images.loss(batch)
    assert torch.equal(by_row["image"], by_image["image"])
    seen = rows.see(batch["image"], NAMES)
    probs = rows.pixel_probability(seen.logits[0], (32, 32))
    expected = []
    for prob, mask in zip(probs, batch["gt_mask"], strict=True):
        for line, marked in zip(prob[1], mask.float(), strict=True):
            expected.append(1 - (2 * (line * marked).sum() + 1) / (line.sum() + marked.sum() + 1))
    torch.testing.assert_close(by_row["dice_abnormal.l1"], torch.stack(expected).mean(), atol=1e-6, rtol=0)
    assert (by_row["dice_abnormal.l1"] - by_image["dice_abnormal.l1"]).abs() > 1e-2


def test_variants(tiny: Clip) -> None:
    assert (AdaCLIP(tiny).hsf_variant, AdaCLIP(tiny).dice_over) == ("released", "rows")
    paper = AdaCLIP(tiny, variant="paper")
    assert (paper.hsf_variant, paper.dice_over) == ("paper", "images")
    assert AdaCLIP(tiny, variant="paper", dice_over="rows").dice_over == "rows"
    assert AdaCLIP(tiny).published_fit("mvtec_ad") == (5, {"stitch": 0.2})
    assert AdaCLIP(tiny).published_fit("cvc_colondb") == (5, {})


@pytest.mark.parametrize(
    ("random", "backend"), [("per_image", "torch"), ("sequential", "torch"), ("sequential", "sklearn")]
)
def test_a_killed_fit_resumes_to_the_same_curve(tiny: Clip, tmp_path: Path, random: Any, backend: Any) -> None:
    def model() -> AdaCLIP:
        return AdaCLIP(tiny, clusters=3, tokens_per_cluster=3, hsf_random=random, hsf_backend=backend)

    whole, expected, curve = model(), Curve(), Curve(5)
    trainer(tmp_path / "whole", expected).fit(whole, Module())
    with pytest.raises(RuntimeError, match="killed"):
        trainer(tmp_path / "killed", curve).fit(model(), Module())
    (saved,) = (tmp_path / "killed").rglob("*.ckpt")
    again, resumed = model(), Curve()
    torch.manual_seed(12345)
    trainer(tmp_path / "killed", resumed).fit(again, Module(), ckpt_path=saved)
    assert resumed.losses == expected.losses[-len(resumed.losses) :]
    assert len(resumed.losses) == 6
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


# ---- the image score


def test_scores_hang_on_the_image_alone_unless_asked_otherwise(tiny: Clip) -> None:
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    names = [NAMES[i % 4] for i in range(8)]
    for backend in ("torch", "sklearn", "mean"):
        model = AdaCLIP(tiny, clusters=3, tokens_per_cluster=4, hsf_backend=backend)
        together = model(images, names)
        alone = [model(images[i : i + 1], names[i : i + 1]) for i in reversed(range(8))][::-1]
        torch.testing.assert_close(torch.cat([one.pred_score for one in alone]), together.pred_score, atol=1e-5, rtol=0)
        maps = torch.cat([one.anomaly_map for one in alone])
        torch.testing.assert_close(maps, together.anomaly_map, atol=1e-5, rtol=0)
    stream = AdaCLIP(tiny, clusters=3, tokens_per_cluster=4, hsf_random="sequential")
    first, second = stream(images, names), stream(images, names)
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert not torch.equal(first.pred_score, second.pred_score)
    stream.on_predict_epoch_start()
    assert torch.equal(stream(images, names).pred_score, first.pred_score)


def test_no_fusion_is_no_clusters(tiny: Clip, image: Tensor) -> None:
    off = AdaCLIP(tiny, hsf=False)(image, NAMES)
    assert torch.equal(AdaCLIP(tiny, clusters=0)(image, NAMES).pred_score, off.pred_score)
    torch.testing.assert_close(AdaCLIP(tiny, alpha=0.0)(image, NAMES).pred_score, off.pred_score, atol=1e-6, rtol=0)
    assert (AdaCLIP(tiny, clusters=2)(image, NAMES).pred_score - off.pred_score).abs().max() > 1e-5


@pytest.mark.parametrize("name", ["infer_default", "infer_size140_clusters4", "infer_visual_only"])
def test_scikit_learn_gives_the_released_scores(name: str) -> None:
    case = next(case for case in read_cases(FIXTURES)["cases"] if case["name"] == name)
    stored, options = load_file(FIXTURES / case["file"]), case["options"]
    clip = tiny_clip.clip(**case["backbone"], position="bicubic_plain", activation="gelu")
    keys = ("length", "depth", "branch", "prompt_type", "clusters", "tokens_per_cluster", "hsf_seed")
    model = AdaCLIP(clip, hsf_backend="sklearn", **{key: options[key] for key in keys})
    seed = case["parameters"]["seed"]
    model.load_state_dict({n: tiny_clip.weight(n, tuple(v.shape), seed) for n, v in model.state_dict().items()})
    prediction = model(tiny_clip.image(**case["images"]), case["image_classes"])
    torch.testing.assert_close(prediction.pred_score, stored["image_score"], atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 8}, r"length must be at most 7 with prompts in the text tower, got 8"),
        ({"length": 0}, r"length must be at least 1, got 0"),
        ({"depth": 0}, r"depth must be at least 1, got 0"),
        ({"branch": "LV"}, r"branch must be one of \['VL', 'V', 'L', ''\], got 'LV'"),
        ({"prompt_type": ""}, r"prompt_type must be one of .*, got ''"),
        ({"layers": (2, 5)}, r"layers must rise and lie in 1\.\.4 for .*, got \[2, 5\]"),
        ({"clusters": -1}, r"clusters must be >= 0, got -1"),
        ({"alpha": 1.5}, r"alpha is a share in \[0, 1\], got 1.5"),
        ({"temperature": 0}, r"temperature must be > 0, got 0"),
        ({"hsf_backend": "faiss"}, r"hsf_backend must be one of \['torch', 'sklearn', 'mean'\], got 'faiss'"),
        ({"hsf_backend": "mean", "variant": "paper"}, r"hsf_backend='mean' has no clusters"),
        ({"dice_over": "pixels"}, r"dice_over must be one of"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str, tiny: Clip) -> None:
    with pytest.raises(ValueError, match=message):
        AdaCLIP(tiny, **options)
    AdaCLIP(tiny, length=8, branch="V")  # the image tower has room


# ---- the authors' files


def stored_file(model: AdaCLIP, path: Path, **changes: Any) -> Path:
    torch.save({f"clip_model.{name}": value for name, value in {**model.state_dict(), **changes}.items()}, path)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"length": 3, "depth": 1},
        {"branch": "V"},
        {"branch": "L", "prompt_type": "S"},
        {"prompt_type": "D", "length": 2},
    ],
)
def test_the_authors_layout_is_read(tiny: Clip, image: Tensor, tmp_path: Path, options: dict[str, Any]) -> None:
    model = AdaCLIP(tiny, seed=7, **options)
    loaded = AdaCLIP.from_author_checkpoint(stored_file(model, tmp_path / "pretrained_visa_clinicdb.pth"), tiny)
    assert (
        torch.equal(loaded(image, NAMES).anomaly_map, model(image, NAMES).anomaly_map)
        or options.get("prompt_type") == "D"
    )
    assert (loaded.length, loaded.prompt_type) == (model.length, model.prompt_type)
    assert [one["name"] for one in loaded.trained_on] == ["visa", "cvc_clinicdb"]


def test_files_say_what_they_were_trained_on(tiny: Clip, tmp_path: Path) -> None:
    model = AdaCLIP(tiny)
    mine = AdaCLIP.from_author_checkpoint(stored_file(model, tmp_path / "mine.pth"), tiny)
    assert "mine.pth" in mine.trained_on[0]["name"]
    entries = {entry.name: entry for entry in list_weights("adaclip")}
    assert {entry.status for entry in entries.values()} == {"ready"}
    for name in ("mvtec_ad+cvc_colondb", "visa+cvc_clinicdb"):
        stem = Path(entries[f"adaclip/{name}"].files[0].path).stem
        assert AUTHOR_DATA[stem] == tuple(name.split("+")) == entries[f"adaclip/{name}"].trained_on
    assert len(entries["adaclip/all"].trained_on) >= 14


def test_the_published_files_have_the_expected_shapes(tmp_path: Path) -> None:
    entry = next(entry for entry in list_weights("adaclip") if entry.variant == "visa+cvc_clinicdb")
    shapes = adaclip_shapes(model_config(str(entry.backbone)), entry.options)
    assert (len(shapes), sum(math.prod(shape) for shape in shapes.values())) == (38, 10_665_472)
    path, shapes_left = tmp_path / "pretrained_visa_clinicdb.pth", dict(shapes)
    torch.save({f"clip_model.{name}": torch.zeros(shape) for name, shape in shapes.items()}, path)
    converted = tmp_path / "converted.safetensors"
    converted.write_bytes(convert(entry, [path]))
    saved = read_weights(converted)
    assert saved["hyper_parameters"] == {
        "branch": "VL", "prompt_type": "SD", "length": 5, "depth": 4, "backbone": "ViT-L-14-336/openai"
    }  # fmt: skip
    assert [one["name"] for one in saved["zsad"]["trained_on"]] == ["visa", "cvc_clinicdb"]
    del shapes_left["patch_token_layer.head.3.bias"]
    torch.save({f"clip_model.{name}": torch.zeros(shape) for name, shape in shapes_left.items()}, path)
    with pytest.raises(CheckpointError, match=r"first at 'patch_token_layer\.head\.3\.bias'"):
        convert(entry, [path])


def test_other_files_are_refused_with_what_they_hold(tiny: Clip, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such checkpoint"):
        AdaCLIP.from_author_checkpoint(tmp_path / "none.pth", tiny)
    path = tmp_path / "file.pth"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"no checkpoint of AdaCLIP's released code.* it holds \['state_dict'\]"):
        AdaCLIP.from_author_checkpoint(path, tiny)
    name = "cls_token_layer.head.0.weight"
    with pytest.raises(CheckpointError, match=rf"first at '{name}': expected shape \(16, 16\), found \(8, 8\)"):
        AdaCLIP.from_author_checkpoint(stored_file(AdaCLIP(tiny), path, **{name: torch.zeros(8, 8)}), tiny)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        AdaCLIP.from_author_checkpoint(path, tiny)
