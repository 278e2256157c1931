"""VAND: zero-shot and few-shot inference, one training step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.functional.maps import probability, similarity
from zsad.methods.vand import VAND, class_minmax
from zsad.types import Batch

FIXED: dict[str, tuple[Any, ...]] = {
    "precision": ("float32",),
    "prompts": ("vand",),
    "templates": (None,),
    "normalise_prompts": (True,),
    "normalise_text": (True,),
    "order": ("upsample_then_softmax",),
    "upsampling": ("bilinear",),
    "align_corners": (True,),
    "layer_aggregation": ("sum",),
    "fusion": ("sum", None),
    "image_score": ("text", "mean_of_text_and_minmax_map_max"),
    "minmax_over": ("images", None),
    "sigma": (0,),
    "optimizer": ("adam",),
    "steps": (1,),
    "loss_aggregation": ("sum",),
    "image_loss": (None,),
    "focal_alpha": (None,),
}
NUMBERS = ("lr", "betas", "eps", "weight_decay", "focal_gamma", "focal_smooth", "dice_smooth")
ANY = "object"


def build(case: dict[str, Any], stored: dict[str, Any]) -> VAND:
    """The method that the options describe, with the stored parameters and references."""
    options = case["options"]
    for key, known in FIXED.items():
        if options.get(key, known[0]) not in known:
            raise ValueError(f"Case '{case['name']}': {key}={options[key]!r} is not implemented, only {known}.")
    backbone = case["backbone"]
    model = VAND(
        tiny_clip.clip(backbone["config"], backbone["seed"], options["position"], options["activation"]),
        layers=options["layers"],
        temperature=1 / options["logit_scale"],
        **{key: options[key] for key in NUMBERS if key in options},
    )
    prefix = "before." if case["kind"] == "train" else ""
    model.load_state_dict({name: stored[f"{prefix}{name}"] for name in model.state_dict()})
    shots = options.get("k_shot", 0)
    if shots != (case["references"] or {"batch": 0})["batch"]:
        raise ValueError(f"Case '{case['name']}': k_shot={shots} does not fit references {case['references']}.")
    if shots:
        for name in [*(case["class_names"] or ()), ANY]:
            model.fit_references(name, tiny_clip.image(**case["references"]))
    return model


def quantity(model: VAND, image: Tensor, names: list[str], spec: dict[str, Any], by_class: bool) -> Any:
    """The tensor that an output's ``as`` names."""
    kind: str = spec["as"]
    layer: Any = spec.get("layer")
    if kind == "text_features":
        return model.text([spec["class_name"]])[0].T
    cls, tokens = model.image_tokens(image)
    size = (image.shape[-2], image.shape[-1])
    if kind == "image_features":
        return F.normalize(cls, dim=-1)
    if kind == "patch_tokens":
        return model.clip.run_image(model.clip.embed_image(image), keep=(layer,))[1][layer]
    if kind == "projected_tokens":
        return F.normalize(model.fc[model.layers.index(layer)](tokens[layer]), dim=-1)
    if kind.startswith("few_shot.map"):
        maps = model.distance_maps(tokens, names, size)
        return maps[layer] if layer is not None else torch.stack(list(maps.values())).sum(dim=0)
    text = model.text(names)
    if kind == "map.layer":
        return model.layer_probability(model.layers.index(layer), tokens[layer], text, size)[:, 1]
    if kind == "zero_shot.map":
        return model.text_map(tokens, text, size)
    text_score = probability(similarity(cls, text), model.temperature)
    if kind == "zero_shot.image_score":
        return text_score
    prediction = model(image, names)
    if kind == "final.map":
        return prediction.anomaly_map
    if kind == "final.image_score":
        if not by_class:
            return prediction.pred_score
        highest = prediction.anomaly_map.amax(dim=(1, 2))
        return class_minmax(prediction.pred_score, highest, float(highest.min()), float(highest.max()))
    raise ValueError(f"unknown quantity '{kind}'.")


@torch.no_grad()
def inference_case(case: dict[str, Any], stored: dict[str, Any]) -> Iterator[Outcome]:
    """Zero-shot without references, else few-shot."""
    image, model = tiny_clip.image(**case["images"]), build(case, stored)
    by_class = case["options"]["image_score"] == "mean_of_text_and_minmax_map_max"
    for name, spec in case["outputs"].items():
        names = case["image_classes"] or [spec.get("class_name", ANY)] * len(image)
        try:
            got = quantity(model, image, names, spec, by_class)
        except ValueError as error:
            raise ValueError(f"Case '{case['name']}', output '{name}': {error}") from error
        yield compare(name, got, spec, stored[name])


def train_case(case: dict[str, Any], stored: dict[str, Any]) -> Iterator[Outcome]:
    """Losses and gradients of one batch, the parameters after one step and the loss after it."""
    model = build(case, stored)
    batch = cast(
        Batch,
        {
            "image": tiny_clip.image(**case["images"]),
            "class_name": case["image_classes"],
            "image_path": [""] * len(case["image_classes"]),
            "gt_mask": stored["mask"].bool(),
        },
    )
    optimizer = model.configure_optimizers()
    losses = model.loss(batch)
    losses["loss"].backward()
    parameters = dict(model.named_parameters())
    gradients = {name: value.grad.clone() for name, value in parameters.items() if value.grad is not None}
    optimizer.step()
    for name, spec in case["outputs"].items():
        kind, parameter = spec["as"], spec.get("parameter", "")
        got: Any
        if kind == "text_features":
            got = model.text([spec["class_name"]])[0].T
        elif kind in {"loss.focal", "loss.dice"}:
            got = torch.stack([losses[f"{kind.removeprefix('loss.')}.l{number}"] for number in model.layers]).detach()
        elif kind == "loss.total":
            got = losses["loss"].detach()
        elif kind == "grad":
            got = gradients[parameter]
        elif kind == "grad_norm":
            got = gradients[parameter].norm()
        elif kind == "after_step1":
            got = parameters[parameter].detach()
        elif kind == "step2.loss.total":
            got = model.loss(batch)["loss"].detach()
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{kind}'.")
        yield compare(name, got, spec, stored[name])
        if "strict" in spec:
            strict = spec["strict"]
            where = stored[strict["where"]].abs() > strict["abs_above"]
            yield Outcome(f"{name}.strict", got[where], stored[name][where], strict["atol"])


def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Dispatch on the kind of the case."""
    kinds = {"inference": inference_case, "train": train_case}
    if case["kind"] not in kinds:
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}', known: {sorted(kinds)}.")
    yield from kinds[case["kind"]](case, load(case["file"]))
    if case["prompt_counts"]:
        prompts = build(case, load(case["file"])).prompts
        for class_name in case["class_names"]:
            counts = [len(side) for side in prompts.compose(class_name)]
            expected = [case["prompt_counts"]["normal"], case["prompt_counts"]["anomalous"]]
            yield Outcome(f"prompt_counts.{class_name}", counts, expected, 0.0)
