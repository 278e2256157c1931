"""AnoVL's test-time adaptation and tiles beyond what the fixtures pin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from zsad.clip import Clip
from zsad.methods.anovl.adaptation import Adaptation, Recipe
from zsad.methods.anovl.method import AnoVL
from zsad.methods.anovl.tiles import merge_tiles, square_tiles
from zsad.types import Prediction

NAMES = ["screw", "carpet", "screw", "screw"]
PATHS = [f"{i}.png" for i in range(4)]
BASE = {"normal": ["normal {}"], "anomalous": ["abnormal {}"]}


def text_adapter(tiny: Clip, **options: Any) -> AnoVL:
    """The published adapter with a short prompt list and a rate at which five steps show."""
    return AnoVL(tiny, **{"adapter": "text", "views": "none", "prompt_set": "base", "lr": 0.02, **options})


@pytest.mark.parametrize("adapter", ["text", "linear"])
def test_images_adapted_side_by_side_give_what_each_gives_alone(adapter: Any, tiny: Clip, image: Tensor) -> None:
    model = text_adapter(tiny, adapter=adapter)
    together = model(image, NAMES, PATHS)
    order = [3, 1, 0, 2]
    for i in order:
        alone = model(image[i : i + 1], NAMES[i : i + 1], PATHS[i : i + 1])
        torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[i], atol=1e-5, rtol=0)
    plain = AnoVL(tiny, views="none", prompt_set="base")(image, NAMES, PATHS)
    assert (plain.anomaly_map - together.anomaly_map).abs().max() > 1e-3
    assert torch.equal(plain.pred_score, together.pred_score)  # adaptation changes the map only


def test_classes_may_have_different_numbers_of_prompts(tiny: Clip, image: Tensor) -> None:
    model = text_adapter(tiny, prompt_set="full")
    model.prompts = replace(
        model.prompts, groups={"object": ["generic"], "texture": ["generic", "surface_photo"]}, states=BASE
    )
    together = model(image, NAMES, PATHS)
    assert len(model.prompt_features("carpet")) == 2 * len(model.prompt_features("screw"))
    alone = [model(image[i : i + 1], NAMES[i : i + 1], PATHS[i : i + 1]).anomaly_map for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together.anomaly_map, atol=1e-5, rtol=0)


def test_a_carried_optimiser_state_goes_from_image_to_image_of_a_class(tiny: Clip, image: Tensor) -> None:
    model = text_adapter(tiny, optimizer_state="carry")
    together = model(image, NAMES, PATHS).anomaly_map
    model._carried.clear()
    one_by_one = [model(image[i : i + 1], NAMES[i : i + 1], PATHS[i : i + 1]).anomaly_map for i in range(4)]
    torch.testing.assert_close(torch.cat(one_by_one), together, atol=1e-5, rtol=0)
    fresh = text_adapter(tiny)(image, NAMES, PATHS).anomaly_map
    torch.testing.assert_close(together[:2], fresh[:2], atol=1e-5, rtol=0)  # the first image of either class
    assert (together[2:] - fresh[2:]).abs().amax(dim=(1, 2)).min() > 1e-4


def test_runs_of_the_trainer_start_without_carried_state(tiny: Clip, image: Tensor) -> None:
    model = text_adapter(tiny, optimizer_state="carry")
    samples: Any = [{"image": image[i], "class_name": NAMES[i], "image_path": PATHS[i]} for i in range(4)]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    first, second = (trainer.predict(model, DataLoader(samples, batch_size=2)) for _ in range(2))
    assert first is not None
    assert second is not None
    for one, two in zip(first, second, strict=True):
        assert isinstance(one, Prediction)
        assert torch.equal(one.anomaly_map, two.anomaly_map)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.state_dict() == {}


def test_random_numbers_depend_on_seed_and_path_alone(tiny: Clip, image: Tensor) -> None:
    model = text_adapter(tiny)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = model(image[:1], ["screw"], ["a.png"]).anomaly_map
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(model(image[:1], ["screw"], ["a.png"]).anomaly_map, first)
    assert not torch.equal(model(image[:1], ["screw"], ["b.png"]).anomaly_map, first)
    assert not torch.equal(text_adapter(tiny, seed=5)(image[:1], ["screw"], ["a.png"]).anomaly_map, first)


def test_inference_mode_and_low_precision_around_it_do_not_change_the_adaptation(tiny: Clip, image: Tensor) -> None:
    model = text_adapter(tiny)
    _, tokens = model.image_tokens(image)
    text = model.text(NAMES)
    context: Any = type("Context", (), {"class_names": NAMES, "image_paths": PATHS})
    expected = model.adapt(tokens, text, (4, 4), 32, context)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = model.adapt(tokens.clone(), text.clone(), (4, 4), 32, context)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_first_weights(tiny: Clip) -> None:
    model = text_adapter(tiny, adapter_init="text")
    weight, bias, noise = model.draw("a.png", "screw", (16, 16))
    assert torch.equal(weight, model.prompt_features("screw"))
    assert weight.shape == (44, 16)
    assert not bias.any()
    assert noise.shape == (5, 16, 16)
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(44))
    weight, bias, noise = text_adapter(tiny).draw("a.png", "screw", (16, 16))
    assert 0.2 < weight.abs().max() <= 0.25  # torch.nn.Linear's bound, 1 / sqrt(16)
    assert 0.1 < bias.abs().max() <= 0.25
    assert noise.std().item() == pytest.approx(0.055, rel=0.05)
    assert text_adapter(tiny, noise_std=0.0)(torch.zeros(1, 3, 32, 32), ["screw"]).anomaly_map.isfinite().all()


def test_paper_variant_sets_every_option_that_is_not_given(tiny: Clip) -> None:
    model = AnoVL(tiny, "paper", adapter="text")
    assert (model.views, model.vv_input, model.adapter_init, model.bias) == ("none", "self", "text", False)
    assert (model.recipe.activation, model.recipe.noise_at, model.recipe.pseudo_loss) == ("softmax", "output", "tfa")
    mixed = AnoVL(tiny, "paper", adapter="text", bias=True, noise_at="input", views="22")
    assert (mixed.bias, mixed.recipe.noise_at, mixed.views, mixed.recipe.activation) == (True, "input", "22", "softmax")


OPTIONS: list[dict[str, Any]] = [
    {"pseudo_loss": "entropy"},
    {"pseudo_loss": "tfa"},
    {"pseudo_loss": "tfa_cross_entropy"},
    {"activation": "softmax"},
    {"activation": "none"},
    {"noise_at": "output"},
]


def adaptation(recipe: Recipe, bias: bool = True, rows: bool = True) -> tuple[Adaptation, Tensor]:
    random = torch.Generator().manual_seed(0)
    tokens, noise = torch.randn(2, 9, 8, generator=random), 0.3 * torch.randn(2, 9, 8, generator=random)
    text = F.normalize(torch.randn(2, 2, 8, generator=random), dim=-1)
    constant = F.normalize(torch.randn(2, 20, 8, generator=random), dim=-1) if rows else None
    weight = torch.empty(2, 20 if rows else 8, 8).uniform_(-0.3, 0.3, generator=random)
    return Adaptation(tokens, text, weight, torch.zeros(weight.shape[:2]) if bias else None, constant, recipe), noise


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rows", [True, False])
def test_the_loss_falls_on_a_fixed_noise(options: dict[str, Any], rows: bool) -> None:
    model, noise = adaptation(Recipe(lr=0.01, **options), rows=rows)
    losses = torch.stack([model.step(noise).total for _ in range(15)])
    assert (losses[-1] < losses[0]).all()


def test_pseudo_losses_are_those_of_the_equations() -> None:
    model, _ = adaptation(Recipe(pseudo_loss="tfa"))
    clean = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))

    def states(tokens: Tensor) -> Tensor:
        return (F.cosine_similarity(tokens[:, :, None], model.text[:, None], dim=-1)).softmax(dim=-1)

    before, after = states(model.tokens), states(clean)
    expected = -(before[..., 1] * after[..., 1].log()).mean(dim=1)  # equation 11
    torch.testing.assert_close(model.losses(clean, clean).pseudo, expected)
    both, _ = adaptation(Recipe(pseudo_loss="tfa_cross_entropy"))
    torch.testing.assert_close(both.losses(clean, clean).pseudo, -(before * after.log()).sum(dim=-1).mean(dim=1))
    entropy, _ = adaptation(Recipe())
    torch.testing.assert_close(
        entropy.losses(clean, clean).pseudo, torch.distributions.Categorical(after).entropy().mean(1)
    )


def test_noise_after_the_adapter_leaves_its_input_clean() -> None:
    model, noise = adaptation(Recipe(noise_at="output"))
    clean, noisy = model.clean_and_noisy(noise)
    torch.testing.assert_close(noisy - clean, noise, atol=1e-6, rtol=0)
    torch.testing.assert_close(clean, model.adapter(model.tokens))


def test_a_layer_without_bias_trains_its_weight_alone() -> None:
    model, noise = adaptation(Recipe(), bias=False)
    model.step(noise)
    assert model.bias is None
    assert [len(state) for state in model.states] == [1, 1]


# ---- tiles


@pytest.mark.parametrize("width", [32, 40, 48, 64])
def test_tiles_cover_the_image_and_merge_back(width: int) -> None:
    image = torch.randn(2, 3, 32, width)
    tiles = square_tiles(image, PATHS)
    assert tiles.shape == (2, 2, 3, 32, 32)
    torch.testing.assert_close(merge_tiles(tiles[:, :, 0], width), image[:, 0])


def test_overlapping_tiles_are_averaged() -> None:
    maps = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)], dim=1)
    assert merge_tiles(maps, 6)[0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


@pytest.mark.parametrize("size", [(48, 32), (32, 72)])
def test_an_image_that_two_tiles_cannot_cover_is_named(size: tuple[int, int], tiny: Clip) -> None:
    model = AnoVL(tiny, tiling=True, prompt_set="base")
    with pytest.raises(ValueError, match=rf"'tall.png' is {size[1]} x {size[0]} pixels"):
        model(torch.randn(1, 3, *size), ["screw"], ["tall.png"])


@pytest.mark.parametrize(
    "options", [{}, {"adapter": "linear"}, {"adapter": "text"}, {"adapter": "linear", "loss_at": "patch"}]
)
def test_tiled_images_get_a_map_of_their_size(options: dict[str, Any], tiny: Clip) -> None:
    model = AnoVL(tiny, tiling=True, prompt_set="base", **options)
    assert model.protocol.resize == "short_side"
    wide = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(2))
    together = model(wide, ["screw", "carpet"], PATHS[:2])
    assert together.anomaly_map.shape == (2, 32, 48)
    alone = model(wide[1:], ["carpet"], PATHS[1:2])
    torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[1], atol=1e-5, rtol=0)
    tiles = square_tiles(wide, PATHS)
    scores = [
        AnoVL(tiny, views="none", prompt_set="base")(tiles[:, i], ["screw", "carpet"]).pred_score for i in range(2)
    ]
    torch.testing.assert_close(together.pred_score, (scores[0] + scores[1]) / 2, atol=1e-6, rtol=0)


def test_losses_over_pixels_without_tiles(tiny: Clip, image: Tensor) -> None:
    patch = text_adapter(tiny)(image, NAMES, PATHS).anomaly_map
    pixel = text_adapter(tiny, loss_at="pixel")(image, NAMES, PATHS).anomaly_map
    assert 0 < (patch - pixel).abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "mine"}, r"variant must be one of .*, got 'mine'"),
        ({"adapter": "tanh"}, r"adapter must be one of .*, got 'tanh'"),
        ({"adapter": "linear", "adapter_init": "text"}, r"adapter_init='text' needs adapter='text'"),
        ({"adapter": "text", "activation": "relu"}, r"activation must be one of .*, got 'relu'"),
        (
            {"adapter": "text", "epochs": 0},
            r"epochs must be at least 1, got 0; adapter='none' turns the adaptation off",
        ),
        ({"noise_std": -1.0}, r"noise_std must be >= 0, got -1.0"),
        ({"views": "tiles"}, r"views='tiles' and tiling=True belong together"),
        ({"tiling": True, "views": "22"}, r"views='tiles' and tiling=True belong together"),
        ({"prompt_set": "base", "prompts": "winclip"}, r"prompt_set='base' needs a domain 'generic'"),
        ({"optimizer_state": "keep"}, r"optimizer_state must be one of .*, got 'keep'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str, tiny: Clip) -> None:
    with pytest.raises(ValueError, match=message):
        AnoVL(tiny, **options)


def test_base_prompts_are_the_two_of_table_4(tiny: Clip) -> None:
    normal, abnormal = AnoVL(tiny, prompt_set="base").prompts.compose("bottle", domains=["generic"])
    assert (normal[0], abnormal[0]) == (
        "a cropped photo of the normal bottle",
        "a cropped photo of the abnormal bottle",
    )
