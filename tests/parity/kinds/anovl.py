"""AnoVL: prompts, text, views, tokens and training-free inference."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.clip.blocks import TwoPath, two_path
from zsad.functional.maps import probability, similarity, to_grid, upsample
from zsad.methods.anovl.adaptation import MIX, Adaptation
from zsad.methods.anovl.method import AnoVL
from zsad.methods.anovl.options import choose_prompts
from zsad.methods.anovl.tiles import square_tiles
from zsad.methods.anovl.views import augmented_views
from zsad.methods.prototypes import encode_sides
from zsad.prompts import load_prompts

FIXED = {
    "pool_padding": "replicate",
    "upsample": "bilinear",
    "align_corners": True,
    "adapter_mix": MIX,
    "optimizer": "adamw",
}

OPTIONS = (
    *("tokens", "vv_blocks", "vv_input", "temperature", "sigma", "pool", "views", "tiling", "prompt_set"),
    *("adapter", "activation", "adapter_init", "bias", "noise_at", "noise_std", "pseudo_loss", "loss_at", "epochs"),
    *("entropy_weight", "discriminative_weight", "lr", "betas", "eps", "weight_decay", "optimizer_state"),
)
"""Options that have the same name in a case and in the method."""


def build(case: dict[str, Any], options: dict[str, Any]) -> AnoVL:
    """The method that the options describe; options a case does not list keep their defaults."""
    for key, only in FIXED.items():
        if options.get(key, only) != only:
            raise ValueError(f"Case '{case['name']}': {key}={options[key]!r} is not implemented, only {only!r}.")
    backbone = case["backbone"]
    clip = tiny_clip.clip(backbone["config"], backbone["seed"], backbone.get("position"))
    given = {key: options[key] for key in OPTIONS if key in options}
    if "normalize_before_mean" in options:
        given["normalise_prompts"] = options["normalize_before_mean"]
    return AnoVL(clip, image_size=backbone.get("image_size"), **given)


def images(case: dict[str, Any]) -> Tensor:
    """The images at the case's indices."""
    source = case["images"]
    return tiny_clip.image(source["batch"], source["size"], source["seed"])[source["index"]]


def text_pair(case: dict[str, Any], name: str, model: AnoVL, memory: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean features (2, dim) and per-prompt features (prompts, dim, 2) of a text of the case; kept in ``memory``."""
    key = json.dumps(["text", case["backbone"], case["texts"][name], model.domains, model.normalise_prompts])
    key += str(model.prompts.states)
    if key not in memory:
        memory[key] = encode_text(case, name, model)
    pair: tuple[Tensor, Tensor] = memory[key]
    return pair


def encode_text(case: dict[str, Any], name: str, model: AnoVL) -> tuple[Tensor, Tensor]:
    """What :func:`text_pair` keeps."""
    text = case["texts"][name]
    if text["source"] == "prompts":
        normal, abnormal = encode_sides(
            model.clip, model.prompts, [text["class_name"]], model.class_words, model.domains
        )[0]
        each = torch.stack([F.normalize(normal, dim=-1), F.normalize(abnormal, dim=-1)], dim=-1)
        return model.text([text["class_name"]])[0], each
    if text["source"] == "random":
        stream = np.random.RandomState(text["seed"])
        raw = torch.from_numpy(stream.standard_normal((text["prompts"], model.clip.dim, 2)).astype(np.float32))
        return F.normalize(raw.mean(dim=0), dim=0).T, F.normalize(raw, dim=1)
    raise ValueError(f"Case '{case['name']}': unknown text source '{text['source']}'.")


def prompts_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Number and hash of the prompts."""
    stored = load(case["file"])
    for name, spec in case["outputs"].items():
        options = {**case["options"], **spec.get("with", {})}
        prompts, domains = choose_prompts(load_prompts("anovl"), options.get("prompt_set", "full"))
        class_name = case["texts"][spec["text"]]["class_name"] if "text" in spec else name.rpartition(".")[0]
        sides = prompts.compose(class_name, "raw", domains)
        got: list[Any]
        if spec["as"] == "count":
            got = [len(side) for side in sides]
        elif spec["as"] == "sha256":
            got = [hashlib.sha256("\n".join(side).encode()).hexdigest() for side in sides]
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{spec['as']}'.")
        class_key, _, key = name.rpartition(".")
        yield compare(name, got, spec, stored[class_key][key])


def text_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Token ids, mean and per-prompt features."""
    stored = load(case["file"])
    model = build(case, case["options"])
    for name, spec in case["outputs"].items():
        text = spec.get("text", next(iter(case["texts"])))
        class_name = case["texts"][text]["class_name"]
        kind = spec.get("as", name)
        if kind == "token_ids":
            sides = dict(
                zip(("normal", "abnormal"), model.prompts.compose(class_name, "raw", model.domains), strict=True)
            )
            chosen = [sides[state][index] for state, indices in spec["rows"] for index in indices]
            got = model.clip.tokenize(chosen)
        elif kind == "text_features":
            got = text_pair(case, text, model, memory)[0].T
        elif kind == "prompt_features":
            got = text_pair(case, text, model, memory)[1]
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{kind}'.")
        yield compare(name, got, spec, stored[name])


def views_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """The image and its 21 views."""
    image = images(case)
    views = torch.cat([image, *augmented_views(image)])
    for name, spec in case["outputs"].items():
        yield compare(name, views, spec, load(case["file"])[name])


def tokens_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Embedded tokens, hidden states of both streams, image embedding and patch tokens."""
    stored, image = load(case["file"]), images(case)
    for name, spec in case["outputs"].items():
        model = build(case, {**case["options"], **spec.get("with", {})})
        kind = spec.get("as", name)
        if kind == "embed":
            got = model.clip.embed_image(image)
        elif kind in {"vv_hidden", "qkv_hidden"}:
            step = two_path(model.first_block, ("v" if model.tokens == "v" else "vv",), model.vv_input)
            _, kept = model.clip.run_image(model.clip.embed_image(image), step, keep=spec["blocks"])
            states = [kept[number] for number in spec["blocks"]]
            pick = (
                (lambda s: s.main if isinstance(s, TwoPath) else s)
                if kind == "qkv_hidden"
                else (lambda s: s.side[0] if isinstance(s, TwoPath) else s)
            )
            got = torch.stack([pick(state) for state in states])
        elif kind == "image_embed":
            got = model.image_tokens(image)[0]
        elif kind == "patch_tokens":
            got = model.image_tokens(image)[1]
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{kind}'.")
        yield compare(name, got, spec, stored[name])


def inference_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Maps and scores without adaptation."""
    stored, image = load(case["file"]), images(case)
    for name, spec in case["outputs"].items():
        options = {**case["options"], **spec.get("with", {})}
        if options.get("adapter", "none") != "none":
            raise ValueError(f"Case '{case['name']}': an inference case has no adapter, got '{options['adapter']}'.")
        model = build(case, options)
        text_name = spec.get("text", next(iter(case["texts"])))
        pair = text_pair(case, text_name, model, memory)[0]
        key = f"{text_name}.text_features" if f"{text_name}.text_features" in stored else "text_features"
        if key in stored:
            pair = stored[key].T
        kind = spec.get("as", name)
        tiles = square_tiles(image, ["image"] * len(image)) if model.tiling else image[:, None]
        cls, patches = model.image_tokens(tiles.flatten(0, 1))
        text = pair.expand(len(patches), -1, -1)
        grid = model.clip.grid(tiles)
        if kind == "patch_prob":
            got = to_grid(probability(similarity(patches, text), model.temperature), grid)
        elif kind == "pooled":
            got = model.patch_map(patches, text, grid)
        elif kind == "view_prob":
            got = model.view_probability(image, cls.unflatten(0, tiles.shape[:2]), pair.expand(len(image), -1, -1))
        elif kind in {"map", "image_score"}:
            names = [text_name] * len(image)
            model._text = {text_name: pair}
            prediction = model(image, names)
            got = prediction.anomaly_map if kind == "map" else prediction.pred_score
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{kind}'.")
        yield compare(name, got, spec, stored[name])


def tta_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Test-time adaptation of one image with stored first weights and noise, step by step and through the method."""
    stored, image = load(case["file"]), images(case)
    if len(image) != 1:
        raise ValueError(f"Case '{case['name']}': a tta case has one image, got {len(image)}.")
    for role, source in case["inputs_from"].items():
        stored = {**stored, role: load(source["file"])[source["tensor"]]}
    done: dict[str, dict[str, Any]] = {}
    for name, spec in case["outputs"].items():
        text = spec.get("text", next(iter(case["texts"])))
        options = {**case["options"], **spec.get("with", {})}
        key = json.dumps([text, options], sort_keys=True)
        if key not in done:
            done[key] = adapt(case, options, text, stored, image, memory)
        kind = spec.get("as", name)
        if kind not in done[key]:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{kind}'.")
        yield compare(name, done[key][kind], spec, stored[name])


def adapt(
    case: dict[str, Any],
    options: dict[str, Any],
    text_name: str,
    stored: dict[str, Any],
    image: Tensor,
    memory: dict[str, Any],
) -> dict[str, Any]:
    """All quantities of a tta case under one set of options; leaves the carried state in ``memory``."""
    model = build(case, options)

    def given(role: str) -> Tensor | None:
        return stored.get(f"{text_name}.{role}", stored.get(role))

    computed, each = text_pair(case, text_name, model, memory)
    columns, rows = given("text_features"), given("prompt_features")
    pair = computed if columns is None else columns.T
    rows = each if rows is None else rows
    model._text, model._rows = {text_name: pair}, {text_name: torch.cat([rows[..., 0], rows[..., 1]])}
    after = (case["sequence"] or {}).get("after")
    if options["optimizer_state"] == "carry" and after is not None and model.adapter != "none":
        model._carried = {text_name: copy.deepcopy(memory[f"{after}/{text_name}"])}
    parts = square_tiles(image, ["image"]) if model.tiling else image[:, None]
    tiles, grid = parts.shape[1], model.clip.grid(parts)
    cls, patches = model.image_tokens(parts.flatten(0, 1))
    text = pair.expand(tiles, -1, -1)
    result: dict[str, Any] = {
        "patch_tokens": patches,
        "tile_prob": probability(similarity(cls, text), model.temperature),
    }
    if model.adapter != "none":
        weight, bias, noise = given("init.weight"), given("init.bias"), given("noise")
        assert noise is not None
        noise = noise.flatten(1, 3)
        if weight is None:
            weight, bias, _ = model.draw("image", text_name, noise.shape[1:])
        model.draw = lambda *_: (weight, bias, noise)  # type: ignore[method-assign, assignment]
        start = (weight, bias if model.bias else None, noise)
        patches = replay(model, result, patches, pair, start, grid, text_name, image.shape[-1])
    result["patch_prob"] = to_grid(probability(similarity(patches, text), model.temperature), grid)
    result["pooled"] = model.patch_map(patches, text, grid)
    result["map_tiles"] = upsample(result["pooled"], (parts.shape[-2], parts.shape[-1]), align_corners=True)
    prediction = model(image, [text_name], ["image"])
    result["map"], result["image_score"] = prediction.anomaly_map, prediction.pred_score[0]
    if options["optimizer_state"] == "carry" and model.adapter != "none":
        memory[f"{case['name']}/{text_name}"] = model._carried[text_name]
    return result


def replay(
    model: AnoVL,
    result: dict[str, Any],
    patches: Tensor,
    pair: Tensor,
    start: tuple[Tensor, Tensor | None, Tensor],
    grid: tuple[int, int],
    name: str,
    width: int,
) -> Tensor:
    """Train step by step as the method does at once, and note everything on the way; return the adapted tokens."""
    weight, bias, noise = start
    shape = (len(patches), *grid, patches.shape[-1])
    seen: dict[str, list[Tensor]] = {key: [] for key in ("loss", "loss_entropy", "loss_discriminative", "adapter_out")}
    with torch.enable_grad():
        adaptation = Adaptation(
            patches.flatten(0, 1)[None], pair[None], weight[None], None if bias is None else bias[None],
            model._rows[name][None] if model.adapter == "text" else None, model.recipe, model.pixels(grid, width),
            copy.deepcopy([model._carried[name]]) if name in model._carried else None,
        )  # fmt: skip
        for epoch, step in enumerate(noise):
            with torch.no_grad():
                clean, noisy = adaptation.clean_and_noisy(step[None])
            seen["adapter_out"].append(torch.cat([clean.reshape(shape), noisy.reshape(shape)]))
            names = ("loss", "loss_entropy", "loss_discriminative")
            for key, value in zip(names, adaptation.step(step[None]), strict=True):
                seen[key].append(value[0])
            if epoch == 0:
                for part, gradient in zip(("weight", "bias"), adaptation.gradients[0], strict=False):
                    result[f"grad0.{part}"] = gradient
                note(result, "step1", adaptation)
    note(result, "final", adaptation)
    result.update({key: torch.stack(values) for key, values in seen.items()})
    result["adapted"] = adaptation.adapted().reshape(shape)
    return result["adapted"].flatten(1, 2)


def note(result: dict[str, Any], moment: str, adaptation: Adaptation) -> None:
    """Keep the parameters as they are now."""
    result[f"{moment}.weight"] = adaptation.weight.detach()[0]
    if adaptation.bias is not None:
        result[f"{moment}.bias"] = adaptation.bias.detach()[0]


KINDS: dict[str, Callable[[dict[str, Any], Load, dict[str, Any]], Iterator[Outcome]]] = {
    "unit:prompts": prompts_case,
    "text": text_case,
    "unit:views": views_case,
    "tokens": tokens_case,
    "inference": inference_case,
    "tta": tta_case,
}


@torch.no_grad()
def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Dispatch on the kind of the case."""
    if case["kind"] not in KINDS:
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}', known: {sorted(KINDS)}.")
    return KINDS[case["kind"]](case, load, memory)
