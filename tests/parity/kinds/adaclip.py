"""AdaCLIP: inference, training steps, the authors' checkpoint layout and the semantic fusion alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.functional.maps import smooth
from zsad.methods import AdaCLIP
from zsad.methods.adaclip.fusion import fuse, most_anomalous
from zsad.methods.adaclip.method import Seen
from zsad.types import Batch

DIRECT = {
    "layers", "length", "depth", "branch", "prompt_type", "prompts", "prompt_cast", "hsf", "hsf_variant", "clusters",
    "tokens_per_cluster", "alpha", "hsf_seed", "dice_over", "focal_gamma", "focal_smooth", "dice_smooth", "lr", "betas",
    "eps", "weight_decay", "sigma",
}  # fmt: skip
ONLY: dict[str, Any] = {
    "precision": "float32",
    "normalise_prompts": True,
    "normalise_text": True,
    "order": "upsample_mean_softmax",
    "upsampling": "bilinear",
    "align_corners": True,
    "image_score": "text",
    "optimizer": "adamw",
    "steps": 1,
    "loss_aggregation": "sum",
    "image_loss": "focal",
    "focal_alpha": None,
    "hsf_labels": "given",
}
WORDS = {"raw_hyphen_to_space": "hyphen_to_space", "raw": "raw", "readable": "readable"}


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    """The constructor's options."""
    given: dict[str, Any] = {}
    for key, value in case["options"].items():
        if key in ONLY:
            if value not in (None, ONLY[key]):
                raise ValueError(f"Case '{case['name']}': {key}={value!r} is not implemented, only {ONLY[key]!r}.")
        elif key in DIRECT:
            if value is not None:
                given[key] = tuple(value) if key == "betas" else value
        elif key == "logit_scale":
            given["temperature"] = 1 / value
        elif key == "class_words":
            given["class_words"] = WORDS[value]
        elif key == "hsf_stream":
            given["hsf_random"] = value
        elif key not in ("activation", "position"):
            raise ValueError(f"Case '{case['name']}': unknown option '{key}'.")
    return given


class Stored:
    """The clustering that a fixture stores, in the order in which images are met."""

    def __init__(self, labels: Tensor | None) -> None:
        self.labels: list[Tensor] = [] if labels is None else list(labels)

    def __call__(self, points: Tensor, clusters: int, seed: Any) -> Tensor:
        return self.labels.pop(0)


def given_labels(model: AdaCLIP, labels: Tensor | None) -> None:
    """Make the model take a stored clustering of its next images."""
    model.by_position, model.cluster = False, Stored(labels)


def build(case: dict[str, Any], stored: dict[str, Tensor]) -> AdaCLIP:
    """The method that the options describe, with the case's parameters."""
    clip = tiny_clip.clip(
        case["backbone"]["config"],
        case["backbone"]["seed"],
        case["options"]["position"],
        case["options"]["activation"],
    )
    options = options_of(case)
    if case["kind"] == "author_checkpoint":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pretrained_mvtec_colondb.pth"
            torch.save(
                {n.removeprefix("checkpoint/"): v for n, v in stored.items() if n.startswith("checkpoint/")}, path
            )
            implied = ("length", "depth", "branch", "prompt_type")  # by the file
            model = AdaCLIP.from_author_checkpoint(path, clip, **{k: v for k, v in options.items() if k not in implied})
        differ = [key for key in implied if getattr(model, key) != options[key]]
        if differ or [one["name"] for one in model.trained_on] != ["mvtec_ad", "cvc_colondb"]:
            raise ValueError(f"Case '{case['name']}': the file was read with another {differ or 'origin'}.")
        return model
    model = AdaCLIP(clip, **options)
    seed = (case["parameters"] or {}).get("seed")
    if seed is None:
        learned = {name: stored[name] for name in model.state_dict()}
    else:
        learned = {name: tiny_clip.weight(name, tuple(v.shape), seed) for name, v in model.state_dict().items()}
    model.load_state_dict(learned)
    model.trained_on = [{"name": "a fixture"}]
    return model


def quantity(
    model: AdaCLIP, image: Tensor, names: Sequence[str], spec: dict[str, Any], labels: Tensor | None, seen: Seen
) -> Any:
    """The tensor that an output's ``as`` names."""
    kind: str = spec["as"]
    layer: Any = spec.get("layer")
    size = (image.shape[-2], image.shape[-1])
    given_labels(model, labels)
    if kind == "frozen_cls":
        return model.clip.encode_image(image).cls
    if kind == "tokens":
        return model.prompt_ids(names[0])
    if kind == "position_table":
        return model.clip.position_table(model.clip.grid(image))
    if kind in ("image_score", "map"):
        prediction = model(image, names)
        return prediction.pred_score if kind == "image_score" else prediction.anomaly_map
    if kind == "text_features":
        return seen.text
    if kind == "image_embedding":
        return seen.cls
    if kind == "projected_cls":
        return seen.global_feature
    if kind in ("projected_tokens", "logits"):
        return (seen.patches if kind == "projected_tokens" else seen.logits)[model.layers.index(layer)]
    if kind == "map_unsmoothed":
        return model.pixel_probability(seen.logits.mean(dim=0), size)[:, 1]
    if kind == "hsf.indices":
        number = model.clusters * model.tokens_per_cluster
        return torch.stack([most_anomalous(one, number) for one in seen.logits.mean(dim=0)])
    visual, textual = model.dynamic_prompts(image)
    if kind == "dynamic.visual":
        return visual
    if kind == "dynamic.text":
        return textual
    if kind == "text_raw":
        return model.text_rows(names[:1], None if textual is None else textual[:1])[0]
    if kind == "patch_tokens":
        return model.image_tokens(image, visual)[1][layer]
    if kind == "hsf.feature":
        sizes = (model.clusters, model.tokens_per_cluster)
        pairs = zip(seen.patches.unbind(1), seen.logits.unbind(1), strict=True)
        return torch.stack([fuse(p, a, *sizes, model.cluster, 0, model.hsf_variant) for p, a in pairs])
    raise ValueError(f"unknown quantity '{kind}'.")


@torch.no_grad()
def inference_case(case: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Outcome]:
    """All images of a case in one batch."""
    image, model = tiny_clip.image(**case["images"]), build(case, stored)
    labels, seen = stored.get("hsf.labels"), model.see(image, case["image_classes"])
    for name, spec in case["outputs"].items():
        try:
            got = quantity(model, image, case["image_classes"], spec, labels, seen)
        except ValueError as error:
            raise ValueError(f"Case '{case['name']}', output '{name}': {error}") from error
        yield compare(name, got, spec, stored[name])


def train_case(case: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Outcome]:
    """Losses and gradients of one batch, the parameters after one step and the loss after it."""
    model = build(case, stored)
    image = tiny_clip.image(**case["images"])
    names = case["image_classes"]
    batch = cast(
        Batch,
        {
            "image": image,
            "class_name": names,
            "image_path": [""] * len(names),
            "gt_mask": stored["mask"].bool(),
            **({} if case["labels"] is None else {"gt_label": torch.tensor(case["labels"])}),
        },
    )
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        seen = model.see(image, names)
        before = {
            name: quantity(model, image, names, spec, stored.get("hsf.labels"), seen)
            for name, spec in case["outputs"].items()
            if spec["as"] == "hsf.indices"
        }
    optimizer = model.configure_optimizers()
    given_labels(model, stored.get("hsf.labels"))
    losses = model.loss(batch)
    losses["loss"].backward()
    parameters = dict(model.named_parameters())
    gradients = {name: value.grad.clone() for name, value in parameters.items() if value.grad is not None}
    optimizer.step()
    for name, spec in case["outputs"].items():
        kind, parameter = spec["as"], spec.get("parameter", "")
        got: Any
        if kind in {"loss.focal", "loss.dice_abnormal", "loss.dice_normal"}:
            got = torch.stack([losses[f"{kind.removeprefix('loss.')}.l{number}"] for number in model.layers]).detach()
        elif kind in {"loss.total", "loss.image"}:
            got = losses["loss" if kind == "loss.total" else "image"].detach()
        elif kind == "grad":
            got = gradients[parameter]
        elif kind == "grad_norm":
            got = gradients[parameter].norm()
        elif kind == "after_step1":
            got = parameters[parameter].detach()
        elif kind == "step2.loss.total":
            given_labels(model, stored.get("step2.hsf.labels"))
            got = model.loss(batch)["loss"].detach()
        elif name in before:
            got = before[name]
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{kind}'.")
        yield compare(name, got, spec, stored[name])
        if "strict" in spec:
            strict = spec["strict"]
            where = stored[strict["where"]].abs() > strict["abs_above"]
            yield Outcome(f"{name}.strict", got[where], stored[name][where], strict["atol"])
    for name, value in parameters.items():
        if name not in gradients and not name.startswith("clip."):
            yield Outcome(f"unused.{name}", value.detach(), start[name], 0.0)


def smoothing(case: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Outcome]:
    """The Gaussian alone, on the stored map."""
    if "map_unsmoothed" in stored and "map" in case["outputs"]:
        got = smooth(stored["map_unsmoothed"], case["options"]["sigma"])
        yield compare("map", got, case["outputs"]["map"], stored["map"], "smoothing alone")


def hsf_case(case: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Outcome]:
    """Semantic fusion of stored tokens and logits with stored clusters."""
    options = case["options"]
    numbers = range(sum(name.startswith("tokens.") for name in case["inputs"]))
    patches = torch.stack([stored[f"tokens.{number}"] for number in numbers])
    logits = torch.stack([stored[f"logits.{number}"] for number in numbers])
    clusters, per_cluster = options["clusters"], options["tokens_per_cluster"] or 1
    features = []
    for labels in stored["hsf.labels"]:
        given = Stored(labels)
        pairs = list(zip(patches.unbind(1), logits.unbind(1), strict=True))
        features.append(
            torch.stack([fuse(p, a, clusters, per_cluster, given, 0, options["hsf_variant"]) for p, a in pairs])
        )
    for name, spec in case["outputs"].items():
        if spec["as"] == "hsf.indices":
            got = torch.stack([most_anomalous(one, clusters * per_cluster) for one in logits.mean(dim=0)])
        elif spec["as"] == "hsf.feature":
            got = torch.stack(features)
        elif spec["as"] == "hsf.inertia":
            chosen = [most_anomalous(one, clusters * per_cluster) for one in logits.mean(dim=0)]
            points = [patches[:, i, own].transpose(0, 1).flatten(1) for i, own in enumerate(chosen)]
            pairs_of = [zip(points, labels, strict=True) for labels in stored["hsf.labels"]]
            got = torch.stack([torch.stack([inertia(x, labels) for x, labels in pairs]) for pairs in pairs_of])
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{spec['as']}'.")
        yield compare(name, got, spec, stored[name])


def inertia(points: Tensor, labels: Tensor) -> Tensor:
    """Sum of squared distances to the mean of the own cluster."""
    parts = [points[labels == label] for label in labels.unique()]
    return torch.stack([(part - part.mean(dim=0)).square().sum() for part in parts]).sum()


def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Dispatch on the kind of the case."""
    kinds = {
        "inference": inference_case,
        "author_checkpoint": inference_case,
        "train": train_case,
        "unit:hsf": hsf_case,
    }
    if case["kind"] not in kinds:
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}', known: {sorted(kinds)}.")
    stored = load(case["file"])
    yield from kinds[case["kind"]](case, stored)
    if case["kind"] == "inference":
        yield from smoothing(case, stored)
    if case["prompt_counts"]:
        prompts = build(case, stored).prompts
        for class_name in dict.fromkeys(case["image_classes"]):
            counts = [len(side) for side in prompts.compose(class_name)]
            expected = [case["prompt_counts"]["normal"], case["prompt_counts"]["anomalous"]]
            yield Outcome(f"prompt_counts.{class_name}", counts, expected, 0.0)
