"""MuSc: whole folders through the panel, and its formulas one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.functional.maps import to_grid, upsample
from zsad.methods.musc.aggregation import joint_norm, pooled, similarity_pooled
from zsad.methods.musc.method import MuSc
from zsad.methods.musc.mutual import mutual_scores
from zsad.methods.musc.panel import divide
from zsad.methods.musc.rescoring import rescore

FIXED: dict[str, tuple[Any, ...]] = {
    "precision": ("float32",),
    "layer_norm": ("joint",),
    "padding": ("zeros counted",),
    "upsampling": ("bilinear",),
    "align_corners": (True,),
    "sigma": (0,),
    "map_score": ("max",),
    "rescore_scale": ("minmax",),
    "rescore_precision": ("float32", "float16"),
    "aggregation": ("mean", "similarity"),
    "rescore": ("rscin", "salient"),
    "subsets": (None, "by_folder_name"),
}
CLASS = "object"


def known(case: dict[str, Any]) -> dict[str, Any]:
    """The options of a case, all of values that exist here."""
    options: dict[str, Any] = case["options"]
    for key, values in FIXED.items():
        if options.get(key, values[0]) not in values:
            raise ValueError(f"Case '{case['name']}': {key}={options[key]!r} is not implemented, only {values}.")
    return options


def folder_of(recipe: dict[str, Any]) -> Tensor:
    """The images of a folder, as the README of the fixtures describes them."""
    number, side = recipe["batch"], recipe["size"]
    x = tiny_clip.image(number, side, recipe["seed"])
    if recipe.get("common") is not None:
        x = 0.8 * tiny_clip.image(1, side, recipe["common"]) + 0.6 * x
    for defect in recipe.get("defects") or ():
        rows = slice(defect["top"], defect["top"] + defect["side"])
        columns = slice(defect["left"], defect["left"] + defect["side"])
        x[defect["image"], :, rows, columns] = tiny_clip.image(1, defect["side"], defect["seed"])[0]
    for to, source in recipe.get("copies") or ():
        x[to] = x[source]
    return x


def build(case: dict[str, Any], options: dict[str, Any]) -> MuSc:
    """The method that the options describe."""
    backbone = case["backbone"]
    division = case.get("division") or {}
    return MuSc(
        tiny_clip.clip(backbone["config"], backbone["seed"], options["position"], options["activation"]),
        layers=options["layers"],
        r_list=options["r_list"],
        interval=cast(tuple[float, float], tuple(options["interval"])),
        rescore_windows=options["rescore_windows"],
        rescore_precision=options.get("rescore_precision", "float32"),
        rescore_scale="minmax",
        panel=None,
        subsets=options.get("subsets"),
        subset_number=division.get("number", 1),
        subset_seed=division.get("seed", 42),
        variant="v2" if options["aggregation"] == "similarity" else "released",
        image_size=case["images"]["size"],
    )


def of_folder(case: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Outcome]:
    """A whole folder: the panel is all of it."""
    options, images = known(case), folder_of(case["images"])
    model, division = build(case, options), case.get("division")
    paths = division["paths"] if division else [f"{number:06d}.png" for number in range(len(images))]
    if division and case.get("subset_members"):
        members = divide(paths, division["number"], division["seed"])
        yield Outcome("subset_members", members, case["subset_members"], 0.0)
    panel = model.fit_panel(CLASS, images, paths)
    groups = [torch.arange(len(images))] if not division else list(map(torch.tensor, case["subset_members"]))
    x, raw = model.clip.run_image(model.clip.embed_image(images), keep=model.layers)
    del x
    parts = [
        model(images[i : i + 3], [CLASS] * len(images[i : i + 3]), paths[i : i + 3]) for i in range(0, len(images), 3)
    ]
    prediction = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
    for name, spec in case["outputs"].items():
        kind, layer, r = spec["as"], spec.get("layer"), spec.get("r", 0)
        if kind == "image_features":
            got = panel.cls
        elif kind == "patch_tokens":
            got = raw[layer]
        elif kind == "aggregated":
            got = model.features(panel.tokens[layer], panel.grid, (layer, r))
        elif kind == "patch_score":
            got = torch.empty_like(panel.patch_scores)
            for group in groups:
                features = model.features(panel.tokens[layer][group], panel.grid, (layer, r))
                got[group] = mutual_scores(features, model.interval)[0]
        elif kind == "salient_features":
            assert panel.salient is not None
            got = panel.salient
        elif kind == "map_max":
            got = panel.maxima
        elif kind in {"map", "score"}:
            got = prediction[0 if kind == "map" else 1]
        else:
            raise ValueError(f"Case '{case['name']}', output '{name}': unknown quantity '{kind}'.")
        yield compare(name, got[: spec.get("first_images")], spec, stored[name])


def grid_of(tokens: Tensor) -> tuple[int, int]:
    """The square grid of the patches behind a class token."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return side, side


def of_aggregation(case: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Outcome]:
    """Neighbourhoods alone."""
    options = known(case)
    for name, spec in case["outputs"].items():
        tokens = stored[f"tokens.layer{spec['layer']}"]
        patches, grid = tokens[:, 1:], grid_of(tokens)
        if options["aggregation"] == "similarity":
            got = similarity_pooled(patches, grid, options["r_list"])
        else:
            got = pooled(joint_norm(patches), grid, spec["r"])
        yield compare(name, got[: spec.get("first_images")], spec, stored[name])


def of_mutual(case: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Outcome]:
    """Interval means of distances to the other images, both ways of computing them."""
    known(case)
    for name, spec in case["outputs"].items():
        for memory, note in ((1e9, "one table"), (1.0, "row by row")):
            got = mutual_scores(stored["features"], tuple(spec["interval"]), memory=memory)[0]
            yield compare(name, got[: spec.get("first_images")], spec, stored[name], note)


def of_rescore(case: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Outcome]:
    """Re-scoring alone, min-max included."""
    options = known(case)
    for name, spec in case["outputs"].items():
        windows = spec.get("rescore_windows") or options["rescore_windows"]
        precision = options.get("rescore_precision", "float32")
        got = rescore(stored["scores"], stored["features"], windows, precision, "minmax")
        yield compare(name, got, spec, stored[name])


def of_v2(case: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Outcome]:
    """MuSc-V2's image branch, from tokens to image scores."""
    options = known(case)
    tokens = {int(name.removeprefix("tokens.layer")): stored[name] for name in case["inputs"]}
    grid = grid_of(next(iter(tokens.values())))
    features = {layer: similarity_pooled(one[:, 1:], grid, options["r_list"]) for layer, one in tokens.items()}
    scores = {layer: mutual_scores(one, tuple(options["interval"]))[0] for layer, one in features.items()}
    mean = torch.stack(list(scores.values())).double().mean(dim=0).float()
    maps = upsample(to_grid(mean, grid), (options["size"], options["size"]), align_corners=True)
    salient = features[options["salient_layer"]][torch.arange(len(mean)), mean.argmax(dim=1)]
    maxima = maps.amax(dim=(1, 2))
    final = rescore(maxima, salient, options["rescore_windows"], options.get("rescore_precision", "float32"), "minmax")
    whole = {"salient_features": salient, "map": maps, "map_max": maxima, "score": final}
    for name, spec in case["outputs"].items():
        by_layer = {"aggregated": features, "patch_score": scores}.get(spec["as"])
        got = whole[spec["as"]] if by_layer is None else by_layer[spec["layer"]]
        yield compare(name, got[: spec.get("first_images")], spec, stored[name])


KINDS = {
    "folder": of_folder,
    "unit:aggregation": of_aggregation,
    "unit:mutual": of_mutual,
    "unit:rescore": of_rescore,
    "unit:v2": of_v2,
}


@torch.no_grad()
def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Compute every output of a case."""
    if case["kind"] not in KINDS:
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}'.")
    yield from KINDS[case["kind"]](case, load(case["file"]))
