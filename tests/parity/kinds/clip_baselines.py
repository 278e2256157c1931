"""CLIP, CLIP-AC and MaskCLIP: inference cases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.functional.maps import probability, similarity, to_grid
from zsad.methods import CLIP, CLIPAC, MaskCLIP


def build(case: dict[str, Any], options: dict[str, Any]) -> CLIP:
    """The method that the options describe."""
    for key, only in (("precision", "float32"), ("order", "softmax_then_upsample"), ("upsampling", "bilinear")):
        if options[key] != only:
            raise ValueError(f"Case '{case['name']}': {key}='{options[key]}' is not implemented, only '{only}'.")
    clip = tiny_clip.clip(
        case["backbone"]["config"], case["backbone"]["seed"], options["position"], options["activation"]
    )
    prompts, templates = options["prompts"], options["templates"] or ""
    common: dict[str, Any] = {
        "temperature": options["temperature"],
        "normalise_prompts": options["normalise_prompts"],
        "normalise_text": options["normalise_text"],
        "align_corners": options["align_corners"],
        "class_words": "raw",
        "sigma": float(options["sigma"]),
        "image_size": case["images"]["size"],
    }
    if prompts == "winclip" and templates == "22":
        prompts = "winclip_22"
    model: CLIP
    if options["last_block"] == "value":
        model = MaskCLIP(clip, prompts, residual=options["residual"], **common)
    elif options["last_block"] == "qkv":
        model = CLIP(clip, prompts, **common)
    else:
        raise ValueError(f"Case '{case['name']}': unknown last_block '{options['last_block']}'.")
    if templates.startswith("imagenet"):
        model.prompts = CLIPAC(clip, prompts, templates).prompts  # type: ignore[arg-type]
    return model


@torch.no_grad()
def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Compute every output of an inference case."""
    if case["kind"] != "inference":
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}'.")
    stored = load(case["file"])
    image = tiny_clip.image(**case["images"])
    for name, spec in case["outputs"].items():
        model = build(case, {**case["options"], **spec.get("options", {})})
        cls, patches = model.image_tokens(image)
        names = [spec.get("class_name", "object")] * len(image)
        if spec["as"] == "image_features":
            got = F.normalize(cls, dim=-1)
        elif spec["as"] == "patch_features":
            got = F.normalize(patches, dim=-1)
        elif spec["as"] == "text_features":
            got = model.text(names[:1])[0]
        elif spec["as"] == "image_score":
            got = model(image, names).pred_score
        elif spec["as"] == "map":
            got = model(image, names).anomaly_map
        elif spec["as"] == "patch_map":
            got = to_grid(
                probability(similarity(patches, model.text(names)), model.temperature), model.clip.grid(image)
            )
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{spec['as']}'.")
        yield compare(name, got, spec, stored[name])
    counts = case.get("prompt_counts")
    if counts:
        for class_name in case["class_names"]:
            normal, anomalous = build(case, case["options"]).prompts.compose(class_name)
            yield Outcome(
                f"prompt_counts.{class_name}",
                [len(normal), len(anomalous)],
                [counts["normal"], counts["anomalous"]],
                0.0,
            )
