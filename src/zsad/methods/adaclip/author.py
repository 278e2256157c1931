"""The checkpoints of AdaCLIP's authors: a plain dictionary of tensors whose names begin with ``clip_model.``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from zsad.clip import Clip
from zsad.methods.trained import TrainedMethod
from zsad.weights.checkpoints import CheckpointError

_PREFIX = "clip_model."
_ALL = (
    "mvtec_ad", "visa", "mpdd", "btad", "sdd", "dagm", "dtd_synthetic", "headct", "brainmri", "br35h", "isic",
    "cvc_colondb", "cvc_clinicdb", "tn3k",
)  # fmt: skip
AUTHOR_DATA: Mapping[str, tuple[str, ...]] = {
    "pretrained_mvtec_colondb": ("mvtec_ad", "cvc_colondb"),
    "pretrained_visa_clinicdb": ("visa", "cvc_clinicdb"),
    "pretrained_all": _ALL,
}
"""File name without ending -> the data sets that it was trained on (README's table of weights has two exchanged)."""

_Model = TypeVar("_Model", bound=TrainedMethod)


def read_author_file(path: str | Path) -> dict[str, Tensor]:
    """Return the learned tensors of a file under the names of AdaCLIP's own state.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is no dictionary of tensors with these names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint file '{path}'.")
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"'{path}' cannot be read as a PyTorch file of tensors: {error}") from error
    state = loaded if isinstance(loaded, dict) else {}
    if not all(isinstance(value, Tensor) and str(name).startswith(_PREFIX) for name, value in state.items()):
        state = {}
    if f"{_PREFIX}patch_token_layer.head.0.weight" not in state:
        found = sorted(map(str, loaded))[:6] if isinstance(loaded, dict) else type(loaded).__name__
        raise CheckpointError(
            f"'{path}' is no checkpoint of AdaCLIP's released code: it needs tensors named '{_PREFIX}patch_token_layer"
            f".head.0.weight' and so on, it holds {found}."
        )
    return {name.removeprefix(_PREFIX): value.float() for name, value in state.items()}


def options_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of the constructor that follow from the tensors of a file."""
    static = {
        letter: [value for name, value in state.items() if name.startswith(f"{tower}_prompter.static_prompts.")]
        for letter, tower in (("V", "visual"), ("L", "text"))
    }
    heads = sum(name.startswith("dynamic_visual_prompt_generator.head.") and name.endswith(".weight") for name in state)
    options: dict[str, Any] = {"prompt_type": ("S" if any(static.values()) else "") + ("D" if heads else "")}
    if not options["prompt_type"]:
        return {"branch": ""}
    for tensors in static.values():
        if tensors:
            options |= {"length": len(tensors[0]), "depth": len(tensors)}
            options["branch"] = "".join(letter for letter, found in static.items() if found)
    if heads and "length" not in options:
        options["length"] = heads
    return options


def load_author_file(kind: type[_Model], path: str | Path, backbone: str | Clip, options: Mapping[str, Any]) -> _Model:
    """Return the detector with the parameters of a file of the authors.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If its layout is another one or the shapes do not fit.
    """
    path = Path(path)
    state = read_author_file(path)
    model = kind(backbone, **{**options_of(state), **options})
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if wanted != found:
        differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(
            f"'{path}' does not fit AdaCLIP on '{model.clip.name}', first at "
            f"'{differ[0]}': expected shape {wanted.get(differ[0])}, found {found.get(differ[0])}."
        )
    model.load_state_dict(state)
    names = AUTHOR_DATA.get(path.stem, (f"unknown data (the authors' file {path.name})",))
    model.trained_on = [{"name": name} for name in names]
    return model
