"""CoOp: forward pass with the initial context, then a few updates on one batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.functional.maps import similarity
from zsad.methods import CoOp
from zsad.types import Batch

FIXED = {"dpam_blocks": 0, "optimizer": "sgd", "lr_schedule": "constant"}
OPTIONS = {
    "n_ctx", "normal_words", "abnormal_words", "cls_ln_post", "sigma", "lr", "momentum", "weight_decay", "image_size",
}  # fmt: skip
ELSEWHERE = {"feature_layers", "temperature", "dampening", "nesterov", "steps"}


def build(case: dict[str, Any]) -> CoOp:
    """The method that the case's options describe."""
    options = case["options"]
    for key, value in options.items():
        if key in FIXED and value != FIXED[key]:
            raise ValueError(f"Case '{case['name']}': {key}={value!r} is not implemented, only {FIXED[key]!r}.")
        if key not in OPTIONS and key not in FIXED and key not in ELSEWHERE:
            raise ValueError(f"Case '{case['name']}': unknown option '{key}'.")
    (layer,) = options["feature_layers"]
    temperature = None if options["temperature"] == "logit_scale" else float(options["temperature"])
    clip = tiny_clip.clip(case["backbone"]["config"], case["backbone"]["seed"], "bilinear")
    given = {key: options[key] for key in OPTIONS if key in options}
    return CoOp(clip, feature_layer=layer, temperature=temperature, lr_schedule="constant", **given)


@torch.no_grad()
def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Compute every output of a case."""
    if case["kind"] != "train_and_infer":
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}'.")
    stored, options = load(case["file"]), case["options"]
    model = build(case)
    model.prompts.load_state_dict({"ctx_normal": stored["init.ctx"]})
    model.trained_on = {"name": "a fixture"}
    image = tiny_clip.image(**case["images"])
    names = [case["class_names"][index] for index in stored["class_index"].tolist()]
    (layer,) = options["feature_layers"]

    text = model.text(names)
    cls, tokens = model.image_tokens(image)
    prediction = model(image, names)
    model.sigma = 0.0
    results: dict[str, Tensor] = {
        "tokens": model.clip.tokenize(model.prompts.texts(case["class_names"])),
        "text_features": model.text(case["class_names"]).flatten(0, 1),
        "image_embedding_normalised": F.normalize(cls, dim=-1),
        "image_logits": similarity(cls, text) / model.temperature,
        "image_score": prediction.pred_score,
        f"patch_tokens.l{layer}": tokens,
        "map": model(image, names).anomaly_map,
        "map_final": prediction.anomaly_map,
    }
    batch: Batch = {
        "image": image,
        "class_name": names,
        "image_path": [str(index) for index in range(len(image))],
        "gt_label": stored["labels"],
    }
    optimizer = model.configure_optimizers()
    for group in optimizer.param_groups:
        group.update(dampening=options["dampening"], nesterov=options["nesterov"])
    context = model.prompts.ctx_normal
    for step in range(1, options["steps"] + 1):
        with torch.enable_grad():
            loss = model.loss(batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
        results[f"loss.step{step}"] = loss
        if step == 1:
            assert context.grad is not None
            results["grad.ctx"] = context.grad.clone()
        optimizer.step()
        results[f"step{step}.ctx"] = context.detach().clone()
    for name, spec in case["outputs"].items():
        kind = spec.get("as", name)
        if kind not in results:
            raise ValueError(f"Case '{case['name']}': unknown quantity '{kind}'.")
        yield compare(name, results[kind], spec, stored[name])
