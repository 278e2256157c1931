"""ALFA: prompts, contextual scoring, aligner, windows, and the whole detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tests.parity import tiny_clip
from tests.parity.outcome import Outcome
from tests.parity.runner import Load, compare
from zsad.functional.maps import smooth, upsample
from zsad.functional.windows import FLOOR, cover, harmonic_mean, window_indices, window_map
from zsad.methods.alfa.aligner import align
from zsad.methods.alfa.method import ALFA
from zsad.methods.alfa.selection import Selection, prototypes, select_prompts
from zsad.types import Context

SIDES = ("normal", "abnormal")
SAME = (
    "use_template", "use_llm", "use_scoring", "use_aligner", "syntactic_consistency", "llm", "k", "empty", "prototype",
    "temperature", "scales", "ridge", "prior", "image_score", "include_global_in_map", "align_corners", "window_chunk",
)  # fmt: skip
KNOWN = {*SAME, "smoothing_sigma", "shots", "references", "eps", "prompts_per_label", "stride", "grid", "prompt"}


def check(case: dict[str, Any], options: dict[str, Any]) -> None:
    """Refuse options that have no meaning here."""
    if unknown := set(options) - KNOWN:
        raise ValueError(f"Case '{case['name']}': unknown options {sorted(unknown)}.")
    for key, only in (("eps", FLOOR), ("stride", 1), ("llm", "packaged")):
        if options.get(key, only) != only:
            raise ValueError(f"Case '{case['name']}': {key}={options[key]!r} is not implemented, only {only!r}.")


def build(case: dict[str, Any], options: dict[str, Any], **more: Any) -> ALFA:
    """The method that the options describe; options a case does not list keep their defaults."""
    check(case, options)
    backbone = case["backbone"]
    clip = tiny_clip.clip(backbone["config"], backbone["seed"], backbone.get("position"), backbone.get("activation"))
    given = {name: options[name] for name in SAME if name in options}
    return ALFA(
        clip, image_size=backbone.get("image_size"), sigma=float(options.get("smoothing_sigma", 0)), **given, **more
    )


def stack(sides: Sequence[Sequence[Tensor]]) -> Tensor:
    """Per image the normal and the abnormal rows, (images, 2, n, ...), padded with zeros."""
    flat = [side for pair in sides for side in pair]
    return pad_sequence(flat, batch_first=True).unflatten(0, (len(sides), 2))


def outcomes(
    case: dict[str, Any], stored: dict[str, Any], get: Callable[[str, dict[str, Any]], Any]
) -> Iterator[Outcome]:
    """Compare every output whose role ``get`` (role, its ``with``) computes; None skips an optional one."""
    for name, spec in case["outputs"].items():
        role = spec.get("as", name.removeprefix(case["prefix"]))
        got, expected = get(role, spec.get("with", {})), stored[name]
        if got is None:
            if spec.get("optional") or spec.get("intermediate"):
                continue
            raise ValueError(f"Case '{case['name']}': unknown output '{role}'.")
        if "where" in spec:
            got, expected = got[stored[spec["where"]]], expected[stored[spec["where"]]]
        if spec["atol"] == spec.get("rtol", 0) == 0 and got.dtype != expected.dtype:
            raise ValueError(f"Case '{case['name']}': {role} is {got.dtype}, stored is {expected.dtype}.")
        yield compare(name, got, spec, expected)


def of_side(value: Tensor, side: str, width: int) -> Tensor:
    """One side of (batch, 2, n), without the padding that only the other side needs."""
    return value[:, SIDES.index(side), :width]


def selection_role(role: str, chosen: Selection, k: float, widths: dict[str, int]) -> Tensor | None:
    """A quantity of contextual scoring by its role, e.g. ``keep_normal``."""
    what, _, side = role.rpartition("_")
    if side not in SIDES:
        return None
    values = {
        "delta": chosen.delta,
        "logistic": torch.sigmoid(k * chosen.delta),
        "score": chosen.score,
        "keep": chosen.keep,
        "used": chosen.used,
    }
    return of_side(values[what], side, widths[side]) if what in values else None


def contextual_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Scores and masks from stored similarities."""
    stored, prefix = load(case["file"]), case["prefix"]
    widths = {side: stored[f"{prefix}sim_{side}"].shape[1] for side in SIDES}
    longest = max(widths.values())
    sims, valid = (
        torch.stack([F.pad(stored[f"{prefix}{kind}_{side}"], (0, longest - widths[side])) for side in SIDES], dim=1)
        for kind in ("sim", "valid")
    )

    def get(role: str, changed: dict[str, Any]) -> Any:
        options = {**case["options"], **changed}
        check(case, options)
        if options["empty"] not in ("both", "side"):
            raise ValueError(f"Case '{case['name']}': unknown empty='{options['empty']}'.")
        chosen = select_prompts(sims, valid, options["k"], options["empty"])
        return selection_role(role, chosen, options["k"], widths)

    yield from outcomes(case, stored, get)


def aligner_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Projected prompts; W itself as the projection of the unit vectors."""
    stored, prefix = load(case["file"]), case["prefix"]
    values, local, prompts = (stored[prefix + name] for name in ("value_global", "value_local", "prompt_global"))

    def get(role: str, changed: dict[str, Any]) -> Any:
        options = {**case["options"], **changed}
        check(case, options)
        if options["prior"] not in ("identity", "zero"):
            raise ValueError(f"Case '{case['name']}': unknown prior='{options['prior']}'.")
        if role == "prompt_local":
            return align(prompts, values, local, options["ridge"], options["prior"])
        if role == "W":
            return align(torch.eye(values.shape[-1]), values, local, options["ridge"], options["prior"]).mT
        return None

    yield from outcomes(case, stored, get)


def windows_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Indices, masks and harmonic means."""
    stored, options, prefix = load(case["file"]), case["options"], case["prefix"]
    check(case, options)
    rows, columns = options["grid"]
    maps = {k: window_map(stored[f"{prefix}k{k}/window_score"], (rows, columns), k) for k in options["scales"]}

    def get(role: str, changed: dict[str, Any]) -> Any:
        if role == "map":
            return harmonic_mean(list(maps.values()))
        scale, _, what = role.partition("/")
        k = int(scale[1:])
        if what == "index":
            return window_indices((rows, columns), k)
        if what == "mask":
            return cover((rows, columns), k).bool()
        return maps[k] if what == "map" else None

    yield from outcomes(case, stored, get)


def text_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """Embeddings of the rendered prompts."""
    model = build(case, case["options"])
    stored = load(case["file"])
    for name, spec in case["outputs"].items():
        index, side = spec["class_index"], next(side for side in SIDES if f"text_{side}" in spec.get("as", name))
        rendered = getattr(model.class_prompts(case["class_names"][index]), side)
        rendered = rendered[: case["options"]["prompts_per_label"][index]]
        yield compare(name, F.normalize(model.clip.encode_prompts(rendered), dim=-1), spec, stored[name])


def detector(
    case: dict[str, Any], options: dict[str, Any], text: Tensor, widths: dict[str, int]
) -> Callable[[str, dict[str, Any]], Any]:
    """Every quantity of the detector by its role, for candidates ``text`` (batch, 2, n, dim)."""
    model = build(case, options, shots=0)
    names = case["class_names"]
    if options.get("references"):
        references = tiny_clip.image(**options["references"])
        for name in dict.fromkeys(names):
            model.fit_references(name, references)
    source = case["images"]
    image = tiny_clip.image(source["batch"], source["size"], source["seed"])
    context = Context(names, [str(row) for row in range(len(image))])
    prediction = model.score(image, text.flatten(1, 2), context)
    grid = model.clip.grid(image)
    embedded = model.clip.embed_image(image, ln_pre=False)
    whole = model.look(embedded, patches=True)
    similarity, chosen = model.select(whole.embedding, text)
    scored = select_prompts(similarity, text.any(dim=-1), model.k, model.empty)
    prompts = prototypes(text, chosen.used, model.renormalise)
    global_score = model._probability(whole.embedding, prompts)
    windows = {scale: model.window(embedded, whole, prompts, grid, scale) for scale in model.scales}
    text_map = model.text_map({scale: one.score for scale, one in windows.items()}, global_score, grid)
    map_grid, distances = text_map, {}
    if options.get("references"):
        distances = model.distance_maps(whole, {k: one.embedding for k, one in windows.items()}, names, grid)
        visual = torch.stack(list(distances.values())).mean(dim=0)
        map_grid = (text_map + visual) / 2
    final = smooth(prediction.anomaly_map, model.sigma)
    # the parts must add up to what score() returned
    torch.testing.assert_close(
        upsample(map_grid, (image.shape[-2], image.shape[-1]), model.align_corners), prediction.anomaly_map
    )
    values: dict[str, Any] = {
        "image_embedding": whole.embedding,
        "value_global": whole.values,
        "prompt_global": prompts,
        "score_global": global_score,
        "map_grid": map_grid,
        "map": final,
        "score": prediction.pred_score,
        "map_text": text_map,
    }
    if distances:
        values["map_visual"], values["map_visual_patch"] = visual, distances["patch"]
    for side in SIDES:
        values[f"sim_{side}"] = of_side(similarity, side, widths[side])
        values[f"contextual_score_{side}"] = of_side(scored.score, side, widths[side])
    for scale, one in windows.items():
        values |= {
            f"k{scale}/window_embedding": one.embedding,
            f"k{scale}/value_local": one.values,
            f"k{scale}/prompt_local": one.prompts,
            f"k{scale}/window_score": one.score,
            f"k{scale}/map": window_map(one.score, grid, scale).flatten(1),
        }
        if distances:
            values[f"k{scale}/window_distance"] = model.memory.distance(f"scale{scale}", one.embedding, names) / 2

    def get(role: str, changed: dict[str, Any]) -> Any:
        return values[role] if role in values else selection_role(role, chosen, model.k, widths)

    return get


def inference_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """The whole detector, once with the stored embeddings and once with the library's own prompts."""
    stored, names = load(case["file"]), case["class_names"]
    cuts = case["options"]["prompts_per_label"]
    given = []
    for row in range(len(names)):
        pair = []
        for side in SIDES:
            entry = case["inputs_from"][f"text_{side}"]
            tensor = entry["tensor"][row] if isinstance(entry["tensor"], list) else entry["tensor"]
            pair.append(load(entry["file"])[tensor][: cuts[row]])
        given.append(pair)
    model = build(case, case["options"], shots=0)
    own = [
        [F.normalize(model.clip.encode_prompts(side[:cut]), dim=-1) for side in model.class_prompts(name)]
        for name, cut in zip(names, cuts, strict=True)
    ]
    computed: dict[tuple[str, str], Callable[[str, dict[str, Any]], Any]] = {}
    for kind, sides in (("stored", given), ("own", own)):
        text = stack(sides)
        widths = {side: max(len(pair[i]) for pair in sides) for i, side in enumerate(SIDES)}

        def get(role: str, changed: dict[str, Any], kind: str = kind, text: Tensor = text, widths: Any = widths) -> Any:
            key = (kind, repr(sorted(changed.items())))
            if key not in computed:
                computed[key] = detector(case, {**case["options"], **changed}, text, widths)
            return computed[key](role, {})

        yield from outcomes(case, stored, get)


def one_class_case(case: dict[str, Any], load: Load) -> Iterator[Outcome]:
    """One prompt and (1 - cos) / 2."""
    model = build(case, {}, one_class=True)
    check(case, case["options"])
    source = case["images"]
    image = tiny_clip.image(source["batch"], source["size"], source["seed"])
    text = F.normalize(model.clip.encode_prompts([case["options"]["prompt"]]), dim=-1)
    candidates = torch.stack([text, torch.zeros_like(text)])[None].expand(len(image), -1, -1, -1).flatten(1, 2)
    values = {
        "text": text,
        "score": model.score(image, candidates, Context(case["class_names"], [""] * len(image))).pred_score,
    }
    yield from outcomes(case, load(case["file"]), lambda role, changed: values.get(role))


KINDS: dict[str, Callable[[dict[str, Any], Load], Iterator[Outcome]]] = {
    "text": text_case,
    "inference": inference_case,
    "inference:one_class": one_class_case,
    "unit:contextual": contextual_case,
    "unit:aligner": aligner_case,
    "unit:windows": windows_case,
}


@torch.no_grad()
def run_case(case: dict[str, Any], load: Load, memory: dict[str, Any]) -> Iterator[Outcome]:
    """Dispatch on the kind of the case."""
    if case["kind"] not in KINDS:
        raise ValueError(f"Case '{case['name']}' is of unknown kind '{case['kind']}', known: {sorted(KINDS)}.")
    return KINDS[case["kind"]](case, load)
