"""VisualAD: inference, the authors' file, training steps, and the score, clipping and schedule alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.functional.maps import top_mean, upsample
from zsad.methods import VisualAD
from zsad.types import Batch

FIXED: dict[str, tuple[Any, ...]] = {
    "precision": ("float32",),
    "anchor_position": ("prefix",),
    "upsampling": ("bilinear",),
    "align_corners": (False,),
    "layer_aggregation": ("sum",),
    "loss_aggregation": ("sum",),
    "score_from": ("smoothed", "unsmoothed"),
    "optimizer": ("adamw",),
    "schedule": ("cosine",),
    "focal_alpha": (None,),
}
OPTIONS = {
    *("layers", "n_anchors", "hidden", "max_patches", "dropout", "ln_post", "image_score", "score_ratio", "sigma"),
    *("lr", "lr_factor", "eta_min_factor", "betas", "eps", "weight_decay", "clip_norm", "margin", "position"),
    *("focal_gamma", "focal_smooth", "dice_smooth"),
}
OF_THE_FILE = ("layers", "n_anchors", "hidden", "max_patches")


def checked(case: dict[str, Any]) -> dict[str, Any]:
    """The options of a case that the class takes; unknown ones raise."""
    options = case["options"]
    for key, value in options.items():
        if key in FIXED and value not in FIXED[key]:
            raise ValueError(f"Case '{case['name']}': {key}={value!r} is not implemented, only {FIXED[key]}.")
        if key not in FIXED and key not in OPTIONS and key not in ("activation", "epochs", "steps_per_epoch"):
            raise ValueError(f"Case '{case['name']}': unknown option '{key}'.")
    return {key: options[key] for key in OPTIONS if key in options}


def formula(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The value of a learned parameter, by its name in the authors' file."""
    stream = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    noise = stream.standard_normal(shape).astype(np.float32)
    if name.endswith("norm.weight") or name == "ln_post_weight":
        value = 1 + 0.1 * noise
    elif name.endswith("bias"):
        value = 0.05 * noise
    elif name.endswith("res_scale"):
        value = 0.3 + 0.1 * noise
    elif name.endswith(".weight"):
        value = noise * shape[1] ** -0.5
    else:
        value = noise if name.endswith("_token") else 0.3 * noise
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def build(case: dict[str, Any]) -> VisualAD:
    """The method that the options describe, with the formula's parameters."""
    options, backbone = case["options"], case["backbone"]
    clip = tiny_clip.clip(backbone["config"], backbone["seed"], options["position"], options["activation"])
    model = VisualAD(clip, **checked(case)).eval()
    seed = case["learned"]["seed"]
    model.load_state_dict({name: formula(name, tuple(value.shape), seed) for name, value in model.state_dict().items()})
    return model


def author_file(model: VisualAD, image_size: int) -> dict[str, Any]:
    """The model in the authors' nested layout."""
    state = model.state_dict()
    transforms: dict[str, dict[str, Tensor]] = {f"layer_{number}": {} for number in model.layers}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "layer_transforms":
            layer, _, rest = rest.partition(".")
            transforms[layer][rest] = value
    anchors = state[f"cross_attn.layer_attentions.layer_{model.layers[0]}.anchor_queries"].shape[0]
    return {
        **{name: value for name, value in state.items() if "." not in name},
        "layer_transforms": transforms,
        "cross_attn": {
            name.removeprefix("cross_attn."): value for name, value in state.items() if name.startswith("cross_attn.")
        },
        "cross_attn_config": {"num_anchors": anchors, "dropout": 0.1, "res_scale_init": 0.01},
        "features_list": list(model.layers),
        "image_size": image_size,
        "epoch": 1,
        "backbone": "ViT-L/14@336px",
        "transform_type": "mlp",
    }


def quantity(model: VisualAD, image: Tensor, name: str, spec: dict[str, Any]) -> Tensor:
    """The tensor that an output's ``as``, or else its name, stands for."""
    kind = spec.get("as", name)
    if kind == "learned":
        return model.state_dict()[spec["parameter"]]
    if kind == "position_table":
        return model.clip.position_table(model.clip.grid(image))
    if kind == "special_tokens_in":
        return model.embed(image)[0, :3]
    if kind == "image_score":
        return model(image, [""] * len(image)).pred_score
    seen = model.look(image)
    if kind in ("anomaly_features", "normal_features"):
        return seen.special[:, int(kind == "normal_features")]
    if kind in ("map_sum", "map_final"):
        size = (image.shape[-2], image.shape[-1])
        total = torch.stack([upsample(grid, size) for grid in seen.grids.values()]).sum(dim=0)
        return total if kind == "map_sum" else model(image, [""] * len(image)).anomaly_map
    layer = spec["layer"]
    if kind == "patch_tokens":
        return seen.patches[layer]
    if kind in ("sca.anomaly", "sca.normal"):
        return seen.tokens[layer][:, int(kind == "sca.normal")]
    if kind == "saf":
        return seen.recalibrated[layer]
    if kind == "grid":
        return seen.grids[layer]
    raise ValueError(f"unknown quantity '{kind}'.")


@torch.no_grad()
def inference_case(case: dict[str, Any], stored: dict[str, Any]) -> Iterator[Outcome]:
    """Compare all outputs of one model and batch; for ``checkpoint`` the model has gone through an authors' file."""
    model, image = build(case), tiny_clip.image(**case["images"])
    if case["kind"] == "checkpoint":
        rest = {key: value for key, value in checked(case).items() if key not in OF_THE_FILE}
        with TemporaryDirectory() as folder:
            path = Path(folder) / "CLIP.pth"
            torch.save(author_file(model, case["images"]["size"]), path)
            model = VisualAD.from_author_checkpoint(path, model.clip, **rest).eval()
        assert model.protocol.size == case["images"]["size"]
    for name, spec in case["outputs"].items():
        try:
            got = quantity(model, image, name, spec)
        except (ValueError, KeyError) as error:
            raise ValueError(f"Case '{case['name']}', output '{name}': {error}") from error
        yield compare(name, got, spec, stored[name])


def train_case(case: dict[str, Any], stored: dict[str, Any]) -> Iterator[Outcome]:
    """Losses and gradients of one batch and the parameters after each step; the schedule moves per epoch."""
    model, epochs = build(case).train(), case["options"]["epochs"]
    image = tiny_clip.image(**case["images"])
    batch = cast(
        Batch,
        {
            "image": image,
            "class_name": [""] * len(image),
            "image_path": [""] * len(image),
            "gt_mask": stored["mask"].bool(),
            "gt_label": stored[case["labels"]],
        },
    )
    fit = model.optimizer_and_schedule(epochs)
    optimizer, schedule = fit["optimizer"], fit["lr_scheduler"]["scheduler"]
    parameters = dict(model.named_parameters())
    totals, after, rates = [], [], []
    first: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    per_epoch = case["options"].get("steps_per_epoch", 1)
    for number in range(1, epochs * per_epoch + 1):
        optimizer.zero_grad()
        losses = model.loss(batch)
        losses["loss"].backward()
        if number == 1:
            first = {name: value.detach() for name, value in losses.items()}
            gradients = {name: value.grad.clone() for name, value in parameters.items() if value.grad is not None}
        model.on_before_optimizer_step(optimizer)
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if number % per_epoch == 0:
            schedule.step()
        totals.append(losses["loss"].detach())
        after.append({name: value.detach().clone() for name, value in model.state_dict().items()})
    for name, spec in case["outputs"].items():
        kind, parameter = spec.get("as", name), spec.get("parameter", "")
        got: Any
        if kind in ("loss.focal", "loss.dice"):
            got = torch.stack([first[f"{kind.removeprefix('loss.')}.l{number}"] for number in model.layers])
        elif kind in ("loss.image", "loss.contrast"):
            got = first[kind.removeprefix("loss.")]
        elif kind == "loss.total":
            got = totals[spec.get("step", 1) - 1]
        elif kind in ("lr.tokens", "lr.others"):
            got = [rate[int(kind == "lr.others")] for rate in rates]
        elif kind == "grad":
            got = gradients[parameter]
            if "rows" in spec:
                yield Outcome(f"{name}.rest", got[:, spec["rows"] :], torch.zeros_like(got[:, spec["rows"] :]), 0.0)
                got = got[:, : spec["rows"]]
        elif kind == "grad_norm":
            got = gradients[parameter].norm()
        elif kind == "after_step":
            got = after[spec["step"] - 1][parameter]
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{kind}'.")
        yield compare(name, got, spec, stored[name])
        if "strict" in spec:
            strict = spec["strict"]
            where = stored[strict["where"]].abs() > strict["abs_above"]
            yield Outcome(f"{name}.strict", got[where], stored[name][where], strict["atol"])


def unit_case(case: dict[str, Any], stored: dict[str, Any]) -> Iterator[Outcome]:
    """One formula on stored numbers."""
    options = case["options"]
    checked(case)
    for name, spec in case["outputs"].items():
        if case["kind"] == "unit:score":
            maps, ratio = stored[spec["of"]], spec.get("score_ratio", options.get("score_ratio"))
            got: Any = maps.amax(dim=(1, 2)) if options["image_score"] == "max" else top_mean(maps, ratio)
        elif case["kind"] == "unit:clip":
            model = VisualAD(tiny_clip.clip("tiny-L", 0, "bilinear"), clip_norm=options["clip_norm"])
            prefix = spec["of"].removesuffix(spec["parameter"])
            for parameter in ("anomaly_token", "normal_token"):  # both, so that joint clipping would show
                gradient = stored.get(f"{prefix}{parameter}", stored[spec["of"]])
                getattr(model, parameter).data = torch.zeros_like(gradient)
                getattr(model, parameter).grad = gradient.clone()
            model.on_before_optimizer_step(cast(torch.optim.Optimizer, None))
            got = getattr(model, spec["parameter"]).grad
        else:
            known = {key: options[key] for key in ("lr_factor", "eta_min_factor") if key in options}
            model = VisualAD(tiny_clip.clip("tiny-L", 0, "bilinear"), lr=spec["lr"], **known)
            fit = model.optimizer_and_schedule(spec["epochs"])
            got = []
            for _ in range(spec["epochs"]):
                got.append(fit["optimizer"].param_groups[int(spec["as"] == "lr.others")]["lr"])
                fit["optimizer"].step()
                fit["lr_scheduler"]["scheduler"].step()
        yield compare(name, got, spec, stored[name])


def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Dispatch on the kind of the case."""
    kinds = {
        "inference": inference_case,
        "checkpoint": inference_case,
        "train": train_case,
        "unit:score": unit_case,
        "unit:clip": unit_case,
        "schedule": unit_case,
    }
    if case["kind"] not in kinds:
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}', known: {sorted(kinds)}.")
    yield from kinds[case["kind"]](case, load(case["file"]))
