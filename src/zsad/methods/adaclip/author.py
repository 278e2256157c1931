"""The checkpoints of AdaCLIP's authors: a plain dictionary of tensors whose names begin with ``clip_model.``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zsad.methods.author_files import AuthorState, Shapes, only_tensors
from zsad.methods.layers import quarters
from zsad.weights.checkpoints import CheckpointError, read_tensors

_PREFIX = "clip_model."
AUTHOR_DATA: Mapping[str, tuple[str, ...]] = {
    "pretrained_mvtec_colondb": ("mvtec_ad", "cvc_colondb"),
    "pretrained_visa_clinicdb": ("visa", "cvc_clinicdb"),
}
"""File name without ending -> the data sets that it was trained on (README's table of weights has two exchanged)."""


def read_adaclip(path: str | Path) -> AuthorState:
    """Return what is learned in a file that AdaCLIP's training script wrote; the names are zsad's own.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: Its layout is another one.
    """
    loaded = read_tensors(path)
    named = loaded if isinstance(loaded, dict) else {}
    if f"{_PREFIX}patch_token_layer.head.0.weight" not in named or not all(
        str(name).startswith(_PREFIX) for name in named
    ):
        found = sorted(map(str, loaded))[:6] if isinstance(loaded, dict) else type(loaded).__name__
        raise CheckpointError(
            f"'{path}' is no checkpoint of AdaCLIP's released code: it needs tensors named '{_PREFIX}patch_token_layer"
            f".head.0.weight' and so on, it holds {found}."
        )
    state = only_tensors(path, named, "AdaCLIP's learned tensors")
    parameters = {name.removeprefix(_PREFIX): value.float() for name, value in state.items()}
    return AuthorState(parameters, options_of(parameters), {})


def options_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of the constructor that follow from the tensors of a file."""
    static = {
        letter: [value for name, value in state.items() if name.startswith(f"{tower}_prompter.static_prompts.")]
        for letter, tower in (("V", "visual"), ("L", "text"))
    }
    heads = sum(name.startswith("dynamic_visual_prompt_generator.head.") and name.endswith(".weight") for name in state)
    options: dict[str, Any] = {"prompt_type": ("S" if any(static.values()) else "") + ("D" if heads else "")}
    if not options["prompt_type"]:
        return {"branch": "", "prompt_type": "S"}
    for tensors in static.values():
        if tensors:
            options |= {"length": len(tensors[0]), "depth": len(tensors)}
            options["branch"] = "".join(letter for letter, found in static.items() if found)
    if heads and "length" not in options:
        options["length"] = heads
    return options


def adaclip_shapes(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shapes:
    """Return the names and shapes of a published file: prompts of both kinds in both towers.

    Args:
        config: open_clip's configuration of the backbone.
        options: Of the constructor.
    """
    width, text_width, dim = config["vision_cfg"]["width"], config["text_cfg"]["width"], config["embed_dim"]
    last = config["vision_cfg"]["layers"]
    length, depth = options.get("length", 5), options.get("depth", 4)
    shapes: dict[str, tuple[int, ...]] = {}
    for block in range(depth):
        shapes[f"text_prompter.static_prompts.{block}"] = (length, text_width)
        shapes[f"visual_prompter.static_prompts.{block}"] = (length, width)
    layers = len(options.get("layers") or quarters(last))
    for name, number, width_in, width_out in (
        ("patch_token_layer", layers, width, dim),
        ("cls_token_layer", 1, dim, dim),
        ("dynamic_visual_prompt_generator", length, dim, width),
        ("dynamic_text_prompt_generator", length, dim, text_width),
    ):
        for head in range(number):
            shapes[f"{name}.head.{head}.weight"] = (width_out, width_in)
            shapes[f"{name}.head.{head}.bias"] = (width_out,)
    return shapes
