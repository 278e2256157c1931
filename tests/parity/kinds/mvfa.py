"""MVFA: zero-shot and few-shot inference, training steps, the eleven views, the authors' file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.methods import MVFA
from zsad.methods.mvfa.adapters import minmax
from zsad.methods.mvfa.fusion import Extremes, Fusion, Terms
from zsad.training.augment import VIEWS, view
from zsad.types import Batch

FIXED: dict[str, tuple[Any, ...]] = {
    "precision": ("float32",),
    "normalise_prompts": (True,),
    "normalise_text": (True,),
    "order": ("upsample_then_softmax",),
    "upsampling": ("bilinear",),
    "align_corners": (True, False),  # the views have the second
    "layer_aggregation": ("sum",),
    "image_score": ("det_mean", "fused_map_max", "mean_of_det_and_memory", None),
    "evaluation": ("set_minmax", None),
    "optimizer": ("adam",),
    "loss_aggregation": ("sum",),
    "image_loss": ("bce_with_logits_on_mean_probability",),
    "focal_alpha": (None,),
    "angles": (["-pi/8", "-pi/16", "pi/16", "pi/8"],),
    "shifts": ([[0.1, 0.1], [-0.1, 0.1], [-0.1, -0.1], [0.1, -0.1]],),
    "flips": (["horizontal", "vertical"],),
    "padding": ("reflection",),
    "interpolation": ("bilinear",),
    "mask_threshold": (0.5,),
}
OPTIONS = {
    *("layers", "adapter_share", "negative_slope", "prompts", "sigma", "memory_class_token", "lr", "betas", "eps"),
    *("weight_decay", "focal_gamma", "focal_smooth", "dice_smooth", "image_loss_weight", "pixel_loss_weight"),
}
OTHERS = {"activation", "position", "logit_scale", "has_masks", "k_shot", "augment_references"}


def build(case: dict[str, Any], stored: dict[str, Any]) -> MVFA:
    """The method that the options describe, with the parameters of the formula or of the authors' file."""
    options, backbone = case["options"], case["backbone"]
    clip = tiny_clip.clip(backbone["config"], backbone["seed"], options["position"], options["activation"])
    arguments: dict[str, Any] = {key: options[key] for key in OPTIONS if key in options}
    arguments["temperature"] = 1 / options["logit_scale"]
    arguments["reference_views"] = options.get("augment_references", True)
    arguments["few_shot_branch"] = "seg" if options.get("has_masks", True) else "det"
    if case["kind"] == "checkpoint":
        content: dict[str, dict[str, Tensor]] = {}
        for name in case["inputs"]:
            outer, _, inner = name.removeprefix("checkpoint.").partition(".")
            content.setdefault(outer, {})[inner] = stored[name]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "Retina_RESC.pth"
            torch.save(content, path)
            return MVFA.from_author_checkpoint(path, clip, "zero-shot", **arguments)
    model = MVFA(clip, **arguments)
    formula = case["parameters"]
    names = {name: tuple(shape) for name, shape in formula["names"].items()}
    model.load_state_dict({name: tiny_clip.weight(name, shape, formula["seed"]) for name, shape in names.items()})
    references = case["references"]
    if case["kind"] == "inference" and options.get("k_shot", 0) != (references or {"batch": 0})["batch"]:
        raise ValueError(f"Case '{case['name']}': k_shot={options['k_shot']} does not fit references {references}.")
    if references is not None:
        for name in case["class_names"]:
            model.fit_references(name, tiny_clip.image(**references))
    return model


def evaluated(case: dict[str, Any], model: MVFA, terms: Terms) -> tuple[Tensor, Tensor]:
    """Maps and scores as the released scripts hand them to the metrics, over all images of the case."""
    if terms.few_map is None:
        return minmax(terms.zero_map), minmax(terms.zero_score)
    fused = Fusion(model.few_shot_branch, len(model.layers))(terms, [Extremes.of(terms)] * len(terms.zero_map))
    return fused.anomaly_map, fused.pred_score


@torch.no_grad()
def inference_case(case: dict[str, Any], stored: dict[str, Any]) -> Iterator[Outcome]:
    """Zero-shot without references, else few-shot; ``checkpoint`` reads the parameters from an authors' file."""
    model, image = build(case, stored), tiny_clip.image(**case["images"])
    (name_of_class,) = case["class_names"]
    names = [name_of_class] * len(image)
    size = (image.shape[-2], image.shape[-1])
    text = model.text(names)
    adapted = model.adapted(model.frozen_features(image)["state"])
    terms = model.terms(image, text, names)
    for name, spec in case["outputs"].items():
        kind: str = spec["as"]
        layer: Any = spec.get("layer")
        got: Any
        if kind == "text_features":
            got = text[0].T
        elif kind == "image_features":
            got = model.clip.project(model.clip.ln_post(adapted.state[:, 0]))
        elif kind in ("seg_tokens", "det_tokens"):
            got = adapted.tokens["seg" if kind == "seg_tokens" else "det"][layer]
        elif kind == "map.layer":
            got = model.layer_probability(adapted.tokens["seg"][layer], text, size)[:, 1]
        elif kind == "zero_shot.map":
            got = terms.zero_map
        elif kind == "zero_shot.image_score":
            got = terms.zero_score
        elif kind == "few_shot.map.layer":
            got = model.distance_map(layer, adapted.tokens[model.few_shot_branch][layer], names, size)
        elif kind == "few_shot.map":
            got = terms.few_map
        elif kind == "few_shot.image_score":
            got = terms.few_score
        elif kind == "memory.entries":
            got = [len(model.memory.bank(name_of_class, f"{model.few_shot_branch}.layer{model.layers[0]}"))]
        elif kind in ("evaluation.map", "evaluation.image_score"):
            got = evaluated(case, model, terms)[int(kind == "evaluation.image_score")]
        else:
            raise ValueError(f"Case '{case['name']}', output '{name}': unknown quantity '{kind}'.")
        yield compare(name, got, spec, stored[name])


def train_case(case: dict[str, Any], stored: dict[str, Any]) -> Iterator[Outcome]:
    """One optimiser step per entry of ``steps``: losses, gradients of the first, parameters after each."""
    model, images = build(case, stored), tiny_clip.image(**case["images"])
    optimizer = model.configure_optimizers()
    start = {name: value.detach().clone() for name, value in model.state_dict().items()}
    losses: list[dict[str, Tensor]] = []
    after: list[dict[str, Tensor]] = []
    gradients: dict[str, Tensor] = {}
    for number, step in enumerate(case["steps"], start=1):
        part = slice(step["image"], step["image"] + 1)
        batch: dict[str, Any] = {
            "image": view(images[part], step["view"]),
            "class_name": [step["class_name"]],
            "image_path": [""],
            "gt_label": torch.tensor([step["label"]]),
        }
        if step["has_masks"]:
            mask = view(stored["masks"][part, None].float(), step["view"])[:, 0] > 0.5
            batch["gt_mask"] = mask if step["label"] else torch.zeros_like(mask)
        optimizer.zero_grad()
        found = model.loss(cast(Batch, batch))
        found["loss"].backward()
        if number == 1:
            gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
        model.on_before_optimizer_step(optimizer)
        optimizer.step()
        losses.append({name: value.detach() for name, value in found.items()})
        after.append({name: value.detach().clone() for name, value in model.state_dict().items()})
    for name in case["no_gradient"]:
        yield Outcome(f"{name}.unchanged", after[-1][name], start[name], 0.0)
    for name, spec in case["outputs"].items():
        kind, parameter = spec["as"], spec.get("parameter", "")
        got: Any
        if kind == "text_features":
            got = model.text([spec["class_name"]])[0].T
        elif kind == "loss.total":
            got = losses[spec["step"] - 1]["loss"]
        elif kind in ("loss.bce", "loss.focal", "loss.dice"):
            term = kind.removeprefix("loss.")
            got = torch.stack([losses[spec["step"] - 1][f"{term}.l{layer}"] for layer in model.layers])
        elif kind == "grad":
            got = gradients[parameter]
        elif kind == "after_step":
            got = after[spec["step"] - 1][parameter]
        else:
            raise ValueError(f"Case '{case['name']}', output '{name}': unknown quantity '{kind}'.")
        yield compare(name, got, spec, stored[name])
        if "strict" in spec:
            strict = spec["strict"]
            where = stored[strict["where"]].abs() > strict["abs_above"]
            yield Outcome(f"{name}.strict", got[where], stored[name][where], strict["atol"])


def augment_case(case: dict[str, Any], stored: dict[str, Any]) -> Iterator[Outcome]:
    """The eleven views of images and masks, all images of a view together."""
    images, masks = tiny_clip.image(**case["images"]), stored["mask"][:, None].float()
    seen = torch.cat([view(images, number) for number in range(VIEWS)])
    marked = torch.cat([view(masks, number) for number in range(VIEWS)])
    got = {"images": seen, "masks": marked, "masks_binary": (marked > 0.5).to(torch.uint8)}
    for name, spec in case["outputs"].items():
        yield compare(name, got[spec["as"]].reshape(stored[name].shape), spec, stored[name])


def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Dispatch on the kind of the case."""
    kinds = {
        "inference": inference_case,
        "checkpoint": inference_case,
        "train": train_case,
        "unit:augment": augment_case,
    }
    if case["kind"] not in kinds:
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}', known: {sorted(kinds)}.")
    for key, value in case["options"].items():
        if key in FIXED and value not in FIXED[key]:
            raise ValueError(f"Case '{case['name']}': {key}={value!r} is not implemented, only {FIXED[key]}.")
        if key not in FIXED and key not in OPTIONS and key not in OTHERS:
            raise ValueError(f"Case '{case['name']}': unknown option '{key}'.")
    stored = load(case["file"])
    yield from kinds[case["kind"]](case, stored)
    if case["prompt_counts"]:
        prompts = build(case, stored).prompts
        for class_name in case["class_names"]:
            counts = [len(side) for side in prompts.compose(class_name, "readable")]
            expected = [case["prompt_counts"]["normal"], case["prompt_counts"]["anomalous"]]
            yield Outcome(f"prompt_counts.{class_name}", counts, expected, 0.0)
