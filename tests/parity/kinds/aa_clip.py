"""AA-CLIP: inference, one training step of each stage, and the evaluation of one class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.clip.blocks import TwoPath, adapters, vv_tower
from zsad.methods import AACLIP
from zsad.methods.aaclip.adapters import disentangle, level_map, probabilities, xavier
from zsad.methods.aaclip.fusion import fused_scores
from zsad.metrics.auroc import auroc
from zsad.metrics.average_precision import average_precision

BENCHMARKS = {
    "MVTec": "mvtec_ad", "VisA": "visa", "MPDD": "mpdd", "BTAD": "btad", "Brain": "bmad_brain", "Liver": "bmad_liver",
    "Retina": "bmad_retina", "Colon_clinicDB": "cvc_clinicdb", "Colon_colonDB": "cvc_colondb", "Colon_Kvasir": "kvasir",
    "Colon_cvc300": "cvc_300",
}  # fmt: skip
COLON = "colon"
"""What our colon benchmarks call the class that the authors name after the data set."""

BACKBONE_OPTIONS = {"activation", "image_size", "position"}
MODEL_OPTIONS = {
    "levels", "lambda_text", "lambda_image", "relu", "vv_axis", "stage1_levels", "stage1_cls_loss", "gamma",
    "cls_scale",
}  # fmt: skip
OTHER_OPTIONS = {"K_T", "K_I", "domains", "surgery_until_layer", "optimizer", "schedule", "steps", "augmentation"}


def class_key(name: str) -> str:
    """Our ``<benchmark>/<class>`` of a fixture's ``<dataset>.<class key>``."""
    dataset, _, key = name.partition(".")
    if dataset not in BENCHMARKS:
        raise ValueError(f"Unknown dataset '{dataset}' in class name '{name}', known: {sorted(BENCHMARKS)}.")
    return f"{BENCHMARKS[dataset]}/{COLON if dataset.startswith('Colon') else key}"


def build(case: dict[str, Any], options: dict[str, Any], load: Load, stage: str = "image", **more: Any) -> AACLIP:
    """The method with the options and learnable parameters of the case."""
    unknown = set(options) - BACKBONE_OPTIONS - MODEL_OPTIONS - OTHER_OPTIONS
    if unknown:
        raise ValueError(f"Case '{case['name']}': unknown options {sorted(unknown)}.")
    if options.get("position", "bicubic") != "bicubic" or options.get("augmentation", False):
        raise ValueError(f"Case '{case['name']}': position must be 'bicubic' and augmentation false.")
    backbone = {**case["backbone"], **{key: options[key] for key in BACKBONE_OPTIONS if key in options}}
    clip = tiny_clip.clip(backbone["config"], backbone["seed"], backbone["position"], backbone["activation"])
    given = {key: options[key] for key in MODEL_OPTIONS if key in options}
    if "surgery_until_layer" in options:
        given["vv_blocks"] = options["surgery_until_layer"] - 1
    model = AACLIP(
        clip,
        stage=stage,  # type: ignore[arg-type]
        image_size=backbone["image_size"],
        text_adapters=options["K_T"],
        image_adapters=options["K_I"],
        augment_p=0.0,
        **given,
        **more,
    )
    source, prefix = load(case["parameters"]["file"]), case["parameters"]["prefix"]
    for which, module in (("text", model.text_adapter), ("image", model.image_adapter)):
        stored = {
            key.removeprefix(f"{prefix}{which}_adapter."): value
            for key, value in source.items()
            if key.startswith(f"{prefix}{which}_adapter.")
        }
        if set(stored) == set(module.state_dict()):
            module.load_state_dict(stored)
        elif which == stage or which == "text" or case["kind"] == "inference":
            raise ValueError(f"Case '{case['name']}': stored {which} parameters {sorted(stored)} do not fit.")
        else:
            xavier(module, 0)  # plays no part in the first stage
    model.finished.fill_(True)
    model.trained_on = {"name": "fixture"}
    return model.eval()


def images(case: dict[str, Any]) -> Tensor:
    """The images of the case."""
    return tiny_clip.image(**case["images"])


def pick(got: Tensor, spec: dict[str, Any]) -> Tensor:
    """The images that the stored tensor holds."""
    return got[spec["images"]] if "images" in spec else got


def inputs(case: dict[str, Any], load: Load) -> dict[str, Tensor]:
    """The stored tensors to feed in."""
    stored = {name: load(case["file"])[case["prefix"] + name] for name in case["inputs"]}
    for name, source in (case.get("inputs_from") or {}).items():
        parts = [load(one["file"])[one["tensor"]] for one in (source if isinstance(source, list) else [source])]
        stored[name] = torch.stack(parts) if isinstance(source, list) else parts[0]
    return stored


# ---- inference


@torch.no_grad()
def inference(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Anchors, features, maps and scores."""
    image = images(case)
    models: dict[str, AACLIP] = {}
    for name, spec in case["outputs"].items():
        options = {**case["options"], **spec.get("with", {})}
        if repr(options) not in models:
            models[repr(options)] = build(case, options, load)
        got = inference_role(spec.get("as", name), case, options, models[repr(options)], image)
        yield compare(name, pick(got, spec), spec, load(case["file"])[case["prefix"] + name])


def inference_role(role: str, case: dict[str, Any], options: dict[str, Any], model: AACLIP, image: Tensor) -> Tensor:
    """One quantity of an inference case."""
    what, _, rest = role.partition(".")
    grid, size = model.clip.grid(image), (image.shape[-2], image.shape[-1])
    if what == "anchors":
        return model.text_features([class_key(rest)])[0].T
    if what == "text":
        quantity, _, state = rest.partition(".")
        prompts = model.class_prompts(class_key(case["class_names"][0]))[("normal", "abnormal").index(state)]
        if quantity == "tokens":
            return model.clip.tokenize(prompts)
        if quantity == "prompt_embeddings":
            return model.prompt_embeddings(prompts)
    if what == "visual":
        quantity, _, level = rest.partition(".")
        if quantity == "positional_embedding_resized":
            return model.clip.position_table(grid)
        if quantity == "hidden":
            step = adapters(list(model.image_adapter.layer_adapters), model.lambda_image)
            return model.clip.run_image(model.clip.embed_image(image), step, [int(level)])[1][int(level)][:, 1:]
        patches, detection = model.image_features(image)
        if quantity == "patch":
            return patches[int(level)]
        if quantity == "det":
            return detection
    if what in ("map", "image_score"):
        domain, _, level = rest.partition(".")
        chosen = options["domains"][domain]
        names = [class_key(chosen["class_name"])] * len(image)
        model.blur = (chosen["kernel"], chosen["sigma"])
        if what == "image_score":
            return model(image, names).pred_score
        if not level:
            return model(image, names).anomaly_map
        number = int(level.rpartition(".")[2])
        patches, _ = model.image_features(image[:1])
        return level_map(patches[number], model.text(names[:1]), grid, size, model.blur)[:, None]
    raise ValueError(f"Case '{case['name']}': unknown quantity '{role}'.")


# ---- training


def train(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Steps of one stage on one batch; everything of the first step unless a tensor says otherwise."""
    stage = {"train:stage1": "text", "train:stage2": "image"}[case["kind"]]
    runs: dict[str, dict[str, Tensor]] = {}
    for name, spec in case["outputs"].items():
        options = {**case["options"], **spec.get("with", {})}
        if repr(options) not in runs:
            runs[repr(options)] = training_run(case, options, load, stage)
        role = spec.get("as", name)
        if role not in runs[repr(options)]:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{role}'.")
        outcome = compare(name, pick(runs[repr(options)][role], spec), spec, load(case["file"])[case["prefix"] + name])
        yield with_outliers(outcome, spec["outliers"]) if "outliers" in spec else outcome


def with_outliers(outcome: Outcome, allowed: dict[str, float]) -> Outcome:
    """The outcome with the wider tolerance at the entries that miss the common one, if they are few enough."""
    got, expected = torch.as_tensor(outcome.got).double(), torch.as_tensor(outcome.expected).double()
    if got.shape != expected.shape:
        return outcome
    relative = outcome.rtol * expected.abs().flatten()
    missed = ((got - expected).abs().flatten() > outcome.atol + relative).nonzero().flatten().tolist()
    if len(missed) > allowed["fraction"] * got.numel():
        return outcome
    return replace(outcome, atol_at={position: allowed["atol"] - float(relative[position]) for position in missed})


def training_run(case: dict[str, Any], options: dict[str, Any], load: Load, stage: str) -> dict[str, Tensor]:
    """Every quantity of a training case by its role."""
    adam = options["optimizer"]
    if adam["name"] != "adam":
        raise ValueError(f"Case '{case['name']}': optimizer '{adam['name']}' is unknown, only 'adam' is.")
    schedule = options.get("schedule") or {"name": "multistep", "milestones": [], "factor": 1.0}
    if schedule["name"] != "multistep":
        raise ValueError(f"Case '{case['name']}': schedule '{schedule['name']}' is unknown, only 'multistep' is.")
    model = build(
        case, options, load, stage, lr=adam["lr"], betas=tuple(adam["betas"]), eps=adam["eps"],
        weight_decay=adam["weight_decay"], milestones=schedule["milestones"], lr_factor=schedule["factor"],
    )  # fmt: skip
    image, given = images(case), inputs(case, load)
    labels = given.get("label", torch.tensor(case["labels"] or [0] * len(image)))
    batch: Any = {
        "image": image,
        "class_name": [class_key(name) for name in case["class_names"]],
        "image_path": [str(number) for number in range(len(image))],
        "gt_label": labels.long(),
        "gt_mask": given["mask"][:, 0].bool(),
    }
    got = stage1_roles(model, batch, options) if stage == "text" else stage2_roles(model, batch)
    configured = model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    scheduler = configured["lr_scheduler"]["scheduler"] if isinstance(configured, dict) else None
    module = model.text_adapter if stage == "text" else model.image_adapter
    losses = []
    for step in range(options["steps"]):
        optimizer.zero_grad()
        loss = model.loss(batch)["loss"]
        loss.backward()
        losses.append(loss.detach())
        if step == 0:
            for key, parameter in module.named_parameters():
                assert parameter.grad is not None
                got[f"grad.{stage}_adapter.{key}"] = parameter.grad.clone()
                got[f"grad_norm.{stage}_adapter.{key}"] = parameter.grad.norm()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if step == 0:
            got |= {f"after.{stage}_adapter.{key}": value.detach().clone() for key, value in module.named_parameters()}
    got["loss.total"] = torch.stack(losses)
    if stage == "text":
        got["after_steps.text_adapter.last"] = list(module.parameters())[-1].detach()
    return got


@torch.no_grad()
def level_roles(model: AACLIP, patches: dict[int, Tensor], text: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Loss terms of every level."""
    got: dict[str, Tensor] = {}
    for level, terms in model.segmentation(patches, text, mask).items():
        got |= {
            f"loss.focal.{level}": terms.focal,
            f"loss.dice_normal.{level}": terms.dice_normal,
            f"loss.dice_abnormal.{level}": terms.dice_anomalous,
            f"loss.seg.{level}": terms.total,
        }
        prob = probabilities(patches[level], text, model.clip.grid(mask), (mask.shape[-2], mask.shape[-1]))
        got[f"pred.{level}"] = prob
    return got


@torch.no_grad()
def stage1_roles(model: AACLIP, batch: Any, options: dict[str, Any]) -> dict[str, Tensor]:
    """What the first stage computes before its first update."""
    levels: list[int] = options["levels"]
    image = batch["image"]
    patches, cls = model.stage1_features(image, levels)
    text = model.anchors(batch["class_name"])
    _, kept = model.clip.run_image(
        model.clip.embed_image(image), vv_tower(model.clip.depth - model.vv_blocks + 1, model.vv_axis), levels
    )
    hidden = {level: state.side[0] if isinstance(state, TwoPath) else state for level, state in kept.items()}
    return {
        "anchors": text.transpose(1, 2),
        "frozen.cls": cls,
        "loss.disentangle": disentangle(text),
        **{f"frozen.patch.{level}": value for level, value in patches.items()},
        **{f"surgery.hidden.{level}": value for level, value in hidden.items()},
        **level_roles(model, patches, text, batch["gt_mask"]),
    }


@torch.no_grad()
def stage2_roles(model: AACLIP, batch: Any) -> dict[str, Tensor]:
    """What the second stage computes before its first update."""
    patches, detection = model.image_features(batch["image"])
    text = model.text_features(batch["class_name"])
    return {
        "anchors": text.transpose(1, 2),
        "image_logits": torch.einsum("bd,bsd->bs", detection, text),
        "loss.cross_entropy": model.cross_entropy(detection, text, batch["gt_label"]),
        "visual.det": detection,
        **{f"visual.patch.{level}": value for level, value in patches.items()},
        **level_roles(model, patches, text, batch["gt_mask"]),
    }


# ---- evaluation


def evaluation(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Final image scores, and AUROC and AP as the authors round them."""
    options, given = case["options"], inputs(case, load)
    if options["normalise"] != "class-min-max":
        raise ValueError(f"Case '{case['name']}': normalise '{options['normalise']}' is unknown, not 'class-min-max'.")
    subsets = {"": torch.ones(len(given["labels"]), dtype=torch.bool), ".anomalous_only": given["labels"] == 1}
    final: dict[str, Tensor] = {}
    for domain, weights in options["fusion"].items():
        for suffix, chosen in subsets.items():
            final[domain + suffix] = fuse(given["pixel_scores"][chosen], given["image_scores"][chosen], weights)
    for name, spec in case["outputs"].items():
        what, _, domain = name.partition(".")
        if what != "final_image_score":
            raise ValueError(f"Case '{case['name']}': unknown quantity '{name}'.")
        yield compare(name, final[domain], spec, load(case["file"])[case["prefix"] + name])
    for name, spec in case["values"].items():
        key, _, metric = name.rpartition(".")
        chosen = subsets[".anomalous_only" if key.endswith("anomalous_only") else ""]
        labels, masks = given["labels"][chosen], given["masks"][chosen][:, 0]
        kind, _, which = metric.partition("_")
        scores, truth = {"image": (final[key], labels), "pixel": (given["pixel_scores"][chosen], masks)}[kind]
        value = {"auroc": auroc, "ap": average_precision}[which](scores.flatten(), truth.flatten())
        got = 100 * round(float(value), options["round_fraction_decimals"])
        expected = float("nan") if spec["value"] is None else spec["value"]
        yield Outcome(name, torch.tensor(got), torch.tensor(expected), atol=spec["atol"])


def fuse(maps: Tensor, scores: Tensor, weights: dict[str, float]) -> Tensor:
    """Final image scores of one class under the weights of a domain."""
    pair = (weights["map_max"], weights["image_score"])
    return fused_scores(scores, maps.flatten(1).amax(dim=1), maps.min(), maps.max(), pair)


def nothing(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """A file of parameters that other cases name."""
    yield from ()


KINDS: dict[str, Callable[[dict[str, Any], Load], Iterator[Outcome]]] = {
    "parameters": nothing,
    "inference": inference,
    "train:stage1": train,
    "train:stage2": train,
    "unit:metrics": evaluation,
}


def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Dispatch on the kind of the case."""
    if case["kind"] not in KINDS:
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}', known: {sorted(KINDS)}.")
    yield from KINDS[case["kind"]](case, load)
