"""From a name to a ready backbone: open_clip's models and weights, a local checkpoint, or the embedded mini CLIP."""

import json
import os
import socket
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse
from urllib.request import getproxies

import open_clip
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from zsad.clip.backbone import Clip, Position
from zsad.clip.embedded import EMBEDDED, MINI
from zsad.weights import backbones
from zsad.weights.places import offline_reason

Activation = Literal["gelu", "quick_gelu"]

RANDOM = "random"

BACKBONES: Mapping[str, str] = {
    "zsad-mini": "embedded, 96 px, synthetic images only: shows the machinery, says nothing about real images",
    "zsad-mini-2": "the same with smaller patches and more training: zsad demo",
    "ViT-L-14-336-quickgelu/openai": "AnomalyCLIP, CoOp, CLIP, CLIP-AC, VisualAD",
    "ViT-L-14-336/openai": "AA-CLIP, VAND, MVFA (with activation='gelu', the published mismatch)",
    "ViT-B-16-plus-240/laion400m_e32": "AnoVL, MaskCLIP, ALFA",
    "ViT-B-16-plus-240/laion400m_e31": "WinCLIP",
}
"""Backbone names of the papers and what they serve; any other ``"<open_clip model>/<tag or file>"`` works as well."""


class ActivationMismatchError(ValueError):
    """Weights were trained with another activation than the model's configuration has."""


class WeightsError(FileNotFoundError):
    """Weights can be found neither in the cache nor by download."""


def load_clip(name: str, position: Position = "bicubic", activation: Activation | None = None) -> Clip:
    """Return the frozen backbone of that name, in float32 on the CPU.

    Args:
        name: ``"zsad-mini"`` or ``"zsad-mini-2"``, or ``"<open_clip model>/<source>"`` where the source is a pretrained
            tag (``"ViT-B-16-plus-240/laion400m_e32"``), the path of a checkpoint file
            (``"ViT-B-16-plus-240/weights/mine.safetensors"``) or ``"random"`` for untrained weights (seed 0).
        position: How the position table is resized; see :class:`Clip`.
        activation: Ask by name for an activation that differs from the weights' own, as AA-CLIP and VAND do.

    Raises:
        ActivationMismatchError: If model and weights disagree on QuickGELU and ``activation`` does not say which.
        WeightsError: If the weights are not cached and cannot be downloaded, or the file does not exist.
        ValueError: If the name or the tag is unknown.
        UnsupportedModelError: If the towers are not plain transformers.
    """
    if name in EMBEDDED:
        return Clip(_embedded(name), name, position)
    model_name, _, source = name.partition("/")
    config = open_clip.get_model_config(model_name)
    if config is None or not source:
        raise ValueError(
            f"Unknown backbone '{name}'. Give 'zsad-mini', 'zsad-mini-2' or '<open_clip model>/<tag, file or random>', "
            f"for example one of {[known for known in BACKBONES if known not in EMBEDDED]}; "
            f"open_clip.list_models() shows all models."
        )
    overrides: dict[str, Any] = {} if activation is None else {"quick_gelu": activation == "quick_gelu"}
    if source == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Clip(_create(model_name, None, overrides), name, position)
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if source in tags:
        if activation is None:
            _check_activation(model_name, source, bool(config.get("quick_gelu", False)))
        if (own := backbones.stored(name)) is not None and _from_open_clip(name) is None:
            return Clip(_create(model_name, str(own), overrides), name, position)
        if cached_weights(name) is None and (why := offline_reason()):
            raise _missing(model_name, source, f"offline mode is on, {why}")
        if cached_weights(name) is None and (host := _unreachable(model_name, source)):
            raise _missing(model_name, source, f"no network: {host} cannot be resolved")
        return Clip(_create(model_name, source, overrides), name, position)
    if not Path(source).is_file():
        raise WeightsError(
            f"Backbone '{name}': '{source}' is neither a file nor a pretrained tag of {model_name}; tags: {tags}."
        )
    return Clip(_create(model_name, source, overrides), name, position)


def from_a_file(name: str, own: str) -> bool:
    """Return whether a backbone's name is that of the model of another name, with weights from a file of the user."""
    model, _, source = name.partition("/")
    return model == own.partition("/")[0] and Path(source).is_file()


def hub_repository(name: str) -> str | None:
    """Return where open_clip finds the weights of a backbone on the Hugging Face Hub, None if not there."""
    model, _, tag = name.partition("/")
    place = (open_clip.get_pretrained_cfg(model, tag) or {}).get("hf_hub", "")
    return "/".join(place.split("/")[:2]) or None


def model_config(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of a backbone, without loading its weights.

    Raises:
        ValueError: If the model is unknown.
    """
    if name in EMBEDDED:
        with safe_open(str(cached_weights(name)), framework="pt") as file:
            mini: dict[str, Any] = json.loads(file.metadata()["config"])
        return mini
    config: dict[str, Any] | None = open_clip.get_model_config(name.partition("/")[0])
    if config is None:
        raise ValueError(f"Unknown backbone '{name}'; open_clip.list_models() shows all models.")
    return config


def is_named(name: str) -> bool:
    """Whether a name means weights that open_clip or this library knows: no file, no place in the network."""
    model_name, _, source = name.partition("/")
    known = model_name in open_clip.list_models()
    return name in EMBEDDED or (known and source in (RANDOM, *open_clip.list_pretrained_tags_by_model(model_name)))


def cached_weights(name: str) -> Path | None:
    """Return where the weights of a backbone lie on this machine, or None if a download would be needed."""
    if name in EMBEDDED:
        return Path(str(files("zsad") / "weights" / EMBEDDED[name]))
    source = name.partition("/")[2]
    if Path(source).is_file():
        return Path(source)
    return _from_open_clip(name) or backbones.stored(name)


def download_weights(name: str) -> Path:
    """Return the file of a backbone's weights, fetched by open_clip if it is not here.

    Raises:
        WeightsError: If it cannot be downloaded.
    """
    if (path := cached_weights(name)) is not None:
        return path
    model_name, _, tag = name.partition("/")
    if why := offline_reason():
        raise _missing(model_name, tag, f"offline mode is on, {why}")
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(model_name, tag)))
    except Exception as error:
        raise _missing(model_name, tag, type(error).__name__) from error


def _from_open_clip(name: str) -> Path | None:
    """Return where open_clip put the weights of a backbone, None if it has not yet."""
    model_name, _, source = name.partition("/")
    tag = open_clip.get_pretrained_cfg(model_name, source) or {}
    if "hf_hub" in tag:
        from huggingface_hub import try_to_load_from_cache

        repository, file = os.path.split(tag["hf_hub"])
        names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        if file:
            names.insert(0, str(Path(file).with_suffix(".safetensors")))
        for candidate in names:
            found = try_to_load_from_cache(repository, candidate)
            if isinstance(found, str):
                return Path(found)
    if "url" in tag:
        path = Path("~/.cache/clip").expanduser() / os.path.basename(tag["url"])
        if path.is_file():
            return path
    return None


def cache_folders() -> list[Path]:
    """Return the folders in which open_clip keeps downloaded weights."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(HF_HUB_CACHE), Path("~/.cache/clip").expanduser()]


def _check_activation(model_name: str, tag: str, configured: bool) -> None:
    trained = bool((open_clip.get_pretrained_cfg(model_name, tag) or {}).get("quick_gelu", False))
    if configured == trained:
        return
    names = {True: "quick_gelu", False: "gelu"}
    twin = model_name.removesuffix("-quickgelu") if configured else f"{model_name}-quickgelu"
    way_out = f"use '{twin}/{tag}', or " if open_clip.get_model_config(twin) is not None else ""
    raise ActivationMismatchError(
        f"'{model_name}' computes with {names[configured]}, but its weights '{tag}' with {names[trained]}: "
        f"{way_out}ask for the mismatch by name with activation='{names[configured]}' "
        f"(AA-CLIP's and VAND's published setting)."
    )


def _unreachable(model_name: str, tag: str) -> str:
    """Return the host of a tag's weights if its name cannot be resolved; a hub client would retry for a minute."""
    from huggingface_hub.constants import ENDPOINT

    config = open_clip.get_pretrained_cfg(model_name, tag) or {}
    host = urlparse(ENDPOINT if "hf_hub" in config else config.get("url", "")).hostname or ""
    if getproxies():  # the proxy resolves names, not this machine
        return ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return host
    return ""


def _missing(model_name: str, tag: str, reason: str) -> WeightsError:
    folders = " or ".join(str(folder) for folder in cache_folders())
    return WeightsError(
        f"Weights '{tag}' of {model_name} are not in the cache ({folders}) and could not be downloaded ({reason}). "
        f"Three ways out: connect to the network once; or copy the weights file here and give its path, "
        f"backbone='{model_name}/<file>'; or, for a trial on synthetic images, take backbone='{MINI}' (in the shell: "
        f"--backbone {MINI})."
    )


class _Unfilled(TorchFunctionMode):
    """Draws no random weights where a file gives all of them: for ViT-L/14 they take longer than reading the file."""

    draws = frozenset({Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.draws:  # those of torch.nn.init come with names, and would draw out of this mode's sight
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _create(model_name: str, source: str | None, overrides: dict[str, Any]) -> torch.nn.Module:
    try:
        with warnings.catch_warnings(), nullcontext() if source is None else _Unfilled():  # open_clip reads strictly
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")  # checked above, or asked for by name
            return open_clip.create_model(model_name, pretrained=source, weights_only=True, **overrides)
    except Exception as error:
        if source is None:
            raise
        if Path(source).is_file():
            raise ValueError(
                f"'{source}' does not hold weights of {model_name}: {str(error).splitlines()[0]}. Give a state dict "
                f"(.safetensors, or .pt that torch.load(weights_only=True) accepts) with that model's shapes."
            ) from error
        raise _missing(model_name, source, type(error).__name__) from error


def _embedded(name: str) -> open_clip.CLIP:
    with safe_open(str(cached_weights(name)), framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        stored: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    model = open_clip.CLIP(**config)
    # only the rows of tokens that occur in training captions are stored; all others share one row
    ids, rows, unknown = (stored.pop(key) for key in ("token_ids", "token_rows", "unknown_row"))
    table = unknown.float().repeat(config["text_cfg"]["vocab_size"], 1)
    table[ids.long()] = rows.float()
    state = {key: tensor.float() for key, tensor in stored.items()}
    model.load_state_dict({**state, "token_embedding.weight": table}, strict=True)
    return model
