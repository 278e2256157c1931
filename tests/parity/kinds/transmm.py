"""TransMM: relevance maps of the image tower for a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.methods import TransMM

ONLY = {"precision": "float32", "logit_scale": "model", "clamp": "positive", "heads": "mean", "upsampling": "bilinear"}
ONLY_FALSE = "align_corners"
TARGETS = {"logit": "text", "text": "text", "margin": "margin"}
"""Word of the fixtures -> the library's."""


def build(case: dict[str, Any], text: str, normalise: str) -> TransMM:
    """The method that the options describe, explaining one text."""
    options = dict(case["options"])
    for key, only in {**ONLY, ONLY_FALSE: False}.items():
        if options.pop(key, only) != only:
            raise ValueError(f"Case '{case['name']}': {key} is not implemented but for {only!r}.")
    clip = tiny_clip.clip(
        case["backbone"]["config"], case["backbone"]["seed"], options.pop("position"), options.pop("activation")
    )
    target = options.pop("target")
    if target not in TARGETS:
        raise ValueError(f"Case '{case['name']}': unknown target '{target}'.")
    model = TransMM(
        clip,
        text,
        first_block=options.pop("first_block"),
        target=TARGETS[target],  # type: ignore[arg-type]
        normalise=normalise,  # type: ignore[arg-type]
        class_words="raw",
        sigma=float(options.pop("sigma")),
    )
    if options:
        raise ValueError(f"Case '{case['name']}': unknown options {sorted(options)}.")
    return model


def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Compute every output of a relevance case."""
    if case["kind"] != "relevance":
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}'.")
    stored = load(case["file"])
    image = tiny_clip.image(**case["images"])
    names = ["object"] * len(image)
    for name, spec in case["outputs"].items():
        kind = spec["as"]
        texts = case["texts"] if kind == "logits" else [case["texts"][spec["text"]]]
        models = [build(case, text, "image" if kind == "map_minmax" else "none") for text in texts]
        got: Any
        if kind == "logits":
            got = torch.stack([model.relevance(image, model.text(names)).scalar for model in models], dim=1)
        elif kind == "relevance":
            got = models[0].relevance(image, models[0].text(names)).patches
        elif kind in ("map", "map_minmax"):
            got = models[0](image, names).anomaly_map
        else:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{kind}'.")
        yield compare(name, got, spec, stored[name])
