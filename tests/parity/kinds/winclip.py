"""WinCLIP: zero-shot and few-shot inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.functional.maps import probability, similarity
from zsad.methods.winclip import WinCLIP

FIXED: dict[str, tuple[Any, ...]] = {
    "precision": ("float32",),
    "prompts": ("winclip", None),
    "stride": (1,),
    "window_attention": ("inside",),
    "patch_features": ("after_ln_post",),
    "window_aggregation": ("harmonic",),
    "scale_aggregation": ("harmonic",),
    "few_shot_aggregation": ("mean", None),
    "fusion": ("mean", None),
    "upsampling": ("bilinear",),
}
TEMPLATES = {"21": "winclip", "22": "winclip_22"}
ANY = "object"


def build(case: dict[str, Any], options: dict[str, Any]) -> WinCLIP:
    """The method that the options describe, with the case's references under every class name."""
    for key, known in FIXED.items():
        if options.get(key, known[0]) not in known:
            raise ValueError(f"Case '{case['name']}': {key}={options[key]!r} is not implemented, only {known}.")
    templates = str(options.get("templates") or "21")
    if templates not in TEMPLATES:
        raise ValueError(f"Case '{case['name']}': unknown templates '{templates}', known: {sorted(TEMPLATES)}.")
    backbone = case["backbone"]
    model = WinCLIP(
        tiny_clip.clip(backbone["config"], backbone["seed"], options["position"], options["activation"]),
        scales=options["scales"],
        prompts=TEMPLATES[templates],
        class_words="raw",
        temperature=options["temperature"],
        normalise_prompts=options["normalise_prompts"],
        align_corners=options["align_corners"],
        sigma=float(options["sigma"]),
        image_size=case["images"]["size"] if isinstance(case["images"]["size"], int) else None,
        chunk=50,
    )
    if options["k_shot"] and not case["references"]:
        raise ValueError(f"Case '{case['name']}': k_shot={options['k_shot']} without references.")
    if options["k_shot"]:
        images = tiny_clip.image(**case["references"])
        if len(images) != options["k_shot"]:
            raise ValueError(f"Case '{case['name']}': k_shot={options['k_shot']} with {len(images)} references.")
        for name in [*(case["class_names"] or ()), ANY]:
            model.fit_references(name, images)
    return model


def quantity(
    model: WinCLIP, image: Tensor, names: list[str], spec: dict[str, Any], references: Tensor | None, unit_text: bool
) -> Any:
    """The tensor that an output's ``as`` names."""
    kind: str = spec["as"]
    scale: Any = spec.get("scale")
    if kind.startswith("reference."):
        if references is None:
            raise ValueError(f"'{kind}' without references.")
        image, kind = references, kind.removeprefix("reference.")
    if kind == "text_features":
        text = model.text(names[:1])[0]
        return F.normalize(text, dim=-1) if unit_text else text
    if kind in {"final.image_score", "final.map"}:
        prediction = model(image, names)
        return prediction.pred_score if kind == "final.image_score" else prediction.anomaly_map
    tokens, grid = model.image_tokens(image), model.clip.grid(image)
    if kind == "image_features":
        return tokens.cls
    if kind == "window_features":
        return tokens.windows[scale]
    if kind == "patch_features":
        return tokens.patches
    if kind.startswith("few_shot.map."):
        maps = model.distance_maps(tokens, names, grid)
        if kind == "few_shot.map.combined":
            return torch.stack(list(maps.values())).mean(dim=0)
        if kind in {"few_shot.map.patch", "few_shot.map.scale"}:
            return maps["patch" if scale is None else f"scale{scale}"]
    if kind.startswith("zero_shot."):
        text = model.text(names)
        score = probability(similarity(tokens.cls, text), model.temperature)
        if kind == "zero_shot.image_score":
            return score
        if kind == "zero_shot.map.scale":
            return model.scale_map(tokens.windows[scale], text, grid, scale)
        if kind == "zero_shot.map.combined":
            return model.text_map(tokens, score, text, grid)
    raise ValueError(f"unknown quantity '{spec['as']}'.")


@torch.no_grad()
def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Compute every output of an inference case."""
    if case["kind"] != "inference":
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}'.")
    stored, image = load(case["file"]), tiny_clip.image(**case["images"])
    references = tiny_clip.image(**case["references"]) if case["references"] else None
    model = build(case, case["options"])
    for name, spec in case["outputs"].items():
        if "class_name" in spec:
            names = [spec["class_name"]] * len(image)
        else:
            names = case["image_classes"] or [ANY] * len(image)
        try:
            got = quantity(model, image, names, spec, references, case["options"]["normalise_text"])
        except ValueError as error:
            raise ValueError(f"Case '{case['name']}', output '{name}': {error}") from error
        yield compare(name, got, spec, stored[name])
    if case["prompt_counts"]:
        for class_name in case["class_names"]:
            counts = [len(side) for side in model.prompts.compose(class_name)]
            expected = [case["prompt_counts"]["normal"], case["prompt_counts"]["anomalous"]]
            yield Outcome(f"prompt_counts.{class_name}", counts, expected, 0.0)
