"""AnomalyCLIP: inference, text, training steps, the authors' checkpoint layout and the small parts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.clip.blocks import Step
from zsad.functional.losses import dice, focal
from zsad.functional.maps import similarity, smooth
from zsad.images import mask_to_tensor, to_rgb, to_tensor
from zsad.methods import AnomalyCLIP
from zsad.methods.prompt_learner import PromptLearner
from zsad.metrics import aupro, auroc, average_precision
from zsad.types import Batch, ImageProtocol

OPTIONS = {
    "n_ctx", "depth", "n_deep", "normal_words", "abnormal_words", "share_context", "deep_token_cast", "feature_layers",
    "dpam_blocks", "dpam_attention", "cls_ln_post", "temperature", "sigma", "local_loss_weight", "focal_gamma",
    "focal_smooth", "dice_smooth", "lr", "betas", "eps", "weight_decay",
}  # fmt: skip
FIXED = {"optimizer": "adam", "lr_schedule": "constant"}
ELSEWHERE = {"image_size", "steps"}


def build(case: dict[str, Any], options: dict[str, Any], learned: dict[str, Tensor] | None = None) -> AnomalyCLIP:
    """The method that the options describe, with the given learned parameters."""
    for key, value in options.items():
        if key in FIXED and value != FIXED[key]:
            raise ValueError(f"Case '{case['name']}': {key}={value!r} is not implemented, only {FIXED[key]!r}.")
        if key not in OPTIONS and key not in FIXED and key not in ELSEWHERE:
            raise ValueError(f"Case '{case['name']}': unknown option '{key}'.")
    clip = tiny_clip.clip(case["backbone"]["config"], case["backbone"]["seed"], "bilinear")
    given = {key: value for key, value in options.items() if key in OPTIONS and value is not None}
    if "betas" in given:
        given["betas"] = tuple(given["betas"])
    model = AnomalyCLIP(clip, image_size=options.get("image_size"), **given)
    if learned is not None:
        if options.get("share_context"):
            learned = {name: value for name, value in learned.items() if name != "ctx_abnormal"}
        model.prompts.load_state_dict(learned)
        model.trained_on = {"name": "a fixture"}
    return model


def inputs(case: dict[str, Any], stored: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The learned parameters among a case's inputs."""
    names = [name for name in case["inputs"] if name.startswith((f"{prefix}ctx", f"{prefix}deep_tokens"))]
    return {name.removeprefix(prefix): stored[name] for name in names}


def unknown(case: dict[str, Any], quantity: str) -> ValueError:
    """The error for a quantity that nobody described."""
    return ValueError(f"Case '{case['name']}': unknown quantity '{quantity}'.")


def inference_quantity(case: dict[str, Any], kind: str, options: dict[str, Any], learned: dict[str, Tensor]) -> Tensor:
    """One output of an inference case."""
    base, _, layer = kind.rpartition(".l")
    if base:
        if int(layer) not in options["feature_layers"]:
            raise unknown(case, kind)
        options = {**options, "feature_layers": [int(layer)]}
    model = build(case, options, learned)
    image = tiny_clip.image(**case["images"])
    names = ["object"] * len(image)
    text = model.text(names)
    if kind == "text_features":
        return text[0]
    if kind == "tokens":
        return model.clip.tokenize(model.prompts.texts(["object"]))
    if kind == "pos_embed_resized":
        return model.clip.position_table(model.clip.grid(image))
    if kind == "image_score":
        return model(image, names).pred_score
    if kind == "map_final":
        return model(image, names).anomaly_map
    cls, tokens = model.image_tokens(image)
    if kind == "image_embedding":
        return cls
    if kind == "image_probs":
        return (similarity(cls, text) / model.temperature).softmax(dim=-1)
    if kind == "map_sum" or base == "map":
        model.sigma = 0.0
        return model(image, names).anomaly_map
    if base == "patch_tokens":
        return tokens[:, 0].mean(dim=1) if len(model.kinds) > 1 else tokens[:, 0, 0]
    if base == "patch_probs":
        grid = (1, tokens.shape[3])
        return model.patch_probability(tokens, text, grid)[:, 0, :, 0].transpose(1, 2)
    raise unknown(case, kind)


def inference_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Text features, image embedding and score, patch tokens, maps."""
    stored = load(case["file"])
    learned = inputs(case, stored)
    for name, spec in case["outputs"].items():
        options = {**case["options"], **spec.get("with", {})}
        yield compare(name, inference_quantity(case, spec.get("as", name), options, learned), spec, stored[name])


def text_states(prompts: PromptLearner, model: AnomalyCLIP) -> tuple[Tensor, list[Tensor]]:
    """Token ids and the state after each text block."""
    ids = prompts.ids(model.clip, ["object"])
    embedded = prompts.embed(model.clip, ids)
    step, states = prompts.step(model.clip, *ids.shape), []

    def recording(number: int, block: nn.Module, x: Tensor) -> Tensor:
        states.append(x := step(number, block, x))
        return x

    watched: Step = recording
    model.clip.run_text(embedded, ids, watched)
    return ids, states


def text_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Text features and what leads to them."""
    stored = load(case["file"])
    for name, spec in case["outputs"].items():
        model = build(case, {**case["options"], **spec.get("with", {})}, inputs(case, stored))
        ids, states = text_states(model.prompts, model)
        kind = spec.get("as", name)
        if kind == "tokens":
            got = model.clip.tokenize(model.prompts.texts(["object"]))
        elif kind == "text_features":
            got = model.text(["object"])[0]
        elif kind == "text_raw":
            got = model.prompts.encode(model.clip, ["object"])[0]
        elif kind == "prompt_embeddings":
            length = stored[name].shape[1]
            full = model.clip.tokenize(model.prompts.texts(["object"]))[:, :length]
            got = model.prompts.embed(model.clip, full)
        elif kind.startswith("block"):
            number, _, place = kind.removeprefix("block").partition("_")
            state = states[int(number)]
            if place == "eot":
                got = state[torch.arange(len(state)), ids.argmax(dim=-1)]
            elif place == "pos0to8":
                got = state[:, :8]
            else:
                raise unknown(case, kind)
        else:
            raise unknown(case, kind)
        yield compare(name, got, spec, stored[name])


def named(model: AnomalyCLIP, share: bool) -> dict[str, nn.Parameter]:
    """The learned parameters by the fixtures' names."""
    parameters = dict(model.prompts.named_parameters())
    return {**parameters, "ctx_abnormal": parameters["ctx_normal"]} if share else parameters


def train_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Losses and gradients of the first step, parameters after some."""
    stored, options = load(case["file"]), case["options"]
    model = build(case, options, inputs(case, stored, "init."))
    image = tiny_clip.image(**case["images"])
    batch: Batch = {
        "image": image,
        "class_name": ["object"] * len(image),
        "image_path": [str(index) for index in range(len(image))],
        "gt_label": stored["labels"],
        "gt_mask": stored["masks"].bool(),
    }
    with torch.no_grad():
        text = model.prompts(model.clip)
        logits = similarity(model.frozen_features(image)["cls"], text.expand(len(image), -1, -1)) / model.temperature
    results: dict[str, Tensor] = {"text_features": text[0], "image_logits": logits}
    optimizer = model.configure_optimizers()
    parameters = named(model, bool(options.get("share_context")))
    for step in range(1, options["steps"] + 1):
        with torch.enable_grad():
            losses = model.loss(batch)
            optimizer.zero_grad()
            losses["loss"].backward()
        results[f"loss_total.step{step}"] = losses["loss"]
        if step == 1:
            results |= {f"loss_{name}": value for name, value in losses.items()}
            results["loss_local_weighted"] = losses.get("local", torch.zeros(()))
            for name, parameter in parameters.items():
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
                results |= {f"grad.{name}": grad, f"grad_norm.{name}": grad.norm()}
        optimizer.step()
        results |= {f"step{step}.{name}": parameter.detach().clone() for name, parameter in parameters.items()}
    for name, spec in case["outputs"].items():
        if spec.get("as", name) not in results:
            raise unknown(case, spec.get("as", name))
        yield compare(name, results[spec.get("as", name)], spec, stored[name])


def checkpoint_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """The authors' file gives their text features, wrapped or bare, with and without the prefix of a parallel run."""
    stored, options = load(case["file"]), case["options"]
    state = {name.removeprefix("prompt_learner."): stored[name] for name in case["inputs"]}
    layouts: dict[str, Any] = {
        "wrapped": {"prompt_learner": state},
        "bare": state,
        "parallel": {"prompt_learner": {f"module.{name}": value for name, value in state.items()}},
    }
    clip = tiny_clip.clip(case["backbone"]["config"], case["backbone"]["seed"], "bilinear")
    words = {key: options[key] for key in ("normal_words", "abnormal_words", "share_context", "deep_token_cast")}
    for layout, content in layouts.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "epoch_15.pth"
            torch.save(content, path)
            model = AnomalyCLIP.from_author_checkpoint(path, clip, **words)
        for name, spec in case["outputs"].items():
            if spec.get("as", name) != "text_features":
                raise unknown(case, spec.get("as", name))
            yield compare(name, model.text(["object"])[0], spec, stored[name], layout)


def losses_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Focal, both dice losses and the gradient of their sum."""
    stored, options = load(case["file"]), case["options"]
    mask = stored["masks"].bool()
    with torch.enable_grad():
        probs = stored["probs"].clone().requires_grad_()
        results = {
            "focal": focal(probs, mask, options["focal_gamma"], options["focal_smooth"]),
            "dice_abnormal": dice(probs[:, 1], mask, options["dice_smooth"]),
            "dice_normal": dice(probs[:, 0], ~mask, options["dice_smooth"]),
        }
        torch.stack(list(results.values())).sum().backward()
    assert probs.grad is not None
    results["grad_probs"] = probs.grad
    for name, spec in case["outputs"].items():
        if spec.get("as", name) not in results:
            raise unknown(case, spec.get("as", name))
        yield compare(name, results[spec.get("as", name)], spec, stored[name])


def gaussian_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Smoothed maps, each output with its own width."""
    stored = load(case["file"])
    for name, spec in case["outputs"].items():
        if spec.get("as", name) != "smoothed":
            raise unknown(case, spec.get("as", name))
        options = {**case["options"], **spec.get("with", {})}
        yield compare(name, smooth(stored["map"], options["sigma"]), spec, stored[name])


def resized_mask(mask: np.ndarray[Any, Any], options: dict[str, Any]) -> Tensor:
    """The mask between resizing and the second threshold, (1, size, size) in [0, 1]."""
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[options["mask_interpolation"]]
    side = options["image_size"]
    levels = Image.fromarray(mask.astype(np.uint8) * 255).resize((side, side), method)
    return torch.from_numpy(np.array(levels, dtype=np.float32))[None] / 255


def preprocess_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Pixels of image and mask files become tensors."""
    stored, options = load(case["file"]), case["options"]
    if options["keep_aspect_ratio"]:
        raise ValueError(f"Case '{case['name']}': keep_aspect_ratio=true is not implemented.")
    protocol = ImageProtocol(
        size=options["image_size"],
        interpolation=options["image_interpolation"],
        mean=tuple(options["mean"]),
        std=tuple(options["std"]),
    )
    for name, spec in case["outputs"].items():
        pixels, kind = stored[spec["from"]].numpy(), spec.get("as", name)
        if kind == "image":
            got = to_tensor(to_rgb(Image.fromarray(pixels)), protocol)
        elif kind in ("mask_resized", "mask_binary"):
            marked = pixels > options["mask_file_threshold"]
            if kind == "mask_resized":
                got = resized_mask(marked, options)
            elif options["mask_interpolation"] == "bilinear" and options["mask_threshold"] == 0.5:
                got = mask_to_tensor(marked, protocol).reshape(stored[name].shape)
            else:  # no published protocol has them, the library neither
                got = (resized_mask(marked, options) > options["mask_threshold"]).reshape(stored[name].shape)
        else:
            raise unknown(case, kind)
        yield compare(name, got, spec, stored[name])


def metrics_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Metrics of one class."""
    stored, options = load(case["file"]), case["options"]
    masks, maps = stored["masks"].bool(), stored["maps"]
    for name, spec in case["outputs"].items():
        kind = spec.get("as", name)
        if kind == "pixel_auroc":
            got = auroc(maps.flatten(), masks.flatten())
        elif kind == "image_auroc":
            got = auroc(stored["scores"], stored["labels"])
        elif kind == "image_ap":
            got = average_precision(stored["scores"], stored["labels"])
        elif kind == "aupro_200step":
            got = aupro(
                maps,
                masks,
                fpr_limit=options["aupro_fpr_limit"],
                connectivity=options["aupro_connectivity"],
                variant="200step",
                steps=options["aupro_steps"],
            )
        else:
            raise unknown(case, kind)
        yield compare(name, got, spec, stored[name])


KINDS: dict[str, Callable[[dict[str, Any], Load], Iterator[Outcome]]] = {
    "inference": inference_case,
    "text": text_case,
    "train": train_case,
    "checkpoint": checkpoint_case,
    "unit:losses": losses_case,
    "unit:gaussian": gaussian_case,
    "unit:preprocess": preprocess_case,
    "unit:metrics": metrics_case,
}


@torch.no_grad()
def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Dispatch on the kind of the case."""
    if case["kind"] not in KINDS:
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}'.")
    yield from KINDS[case["kind"]](case, load)
