"""Other people's checkpoints: whose file it is, what it may hold, and under which names zsad keeps it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from zsad import __version__
from zsad.clip.loading import model_config
from zsad.methods.layers import quarters
from zsad.weights import store
from zsad.weights.checkpoints import CheckpointError, local_file, read_tensors
from zsad.weights.expected import MismatchError
from zsad.weights.fetch import Report
from zsad.weights.registry import NotPublishedError, WeightsEntry, find
from zsad.weights.sources import Asked

Shapes = Mapping[str, tuple[int, ...]]


class AuthorState(NamedTuple):
    """What is learned in a file of a paper's authors."""

    parameters: dict[str, Tensor]
    """Under the names of zsad's method."""
    options: dict[str, Any]
    """Arguments of the method's class that follow from the file."""
    evidence: dict[str, Tensor]
    """What only repeats the backbone or the words, for comparison."""


class Reader(NamedTuple):
    """How a layout is read."""

    read: Callable[[Sequence[Path]], AuthorState]
    """From the published files, in the table's order."""
    shapes: Callable[[Mapping[str, Any], Mapping[str, Any]], Shapes]
    """Expected shapes, from open_clip's configuration of the backbone and the options in the table."""


# ---- what all layouts share


def only_tensors(path: str | Path, content: Any, what: str) -> dict[str, Tensor]:
    """Return a dictionary of finite tensors, names without the prefix of a parallel run.

    Args:
        path: Of the file, for messages.
        content: The dictionary.
        what: What it should be, for messages: "VAND's linear layers".

    Raises:
        CheckpointError: It is something else, or a value is NaN or infinite.
    """
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        held = sorted(map(str, content))[:6] if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"'{path}' is no state dict of {what}, but {held}.")
    for name, value in content.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"'{path}' is damaged: '{name}' holds values that are NaN or infinite.")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def check_shapes(path: str | Path, parameters: Mapping[str, Tensor], wanted: Shapes, what: str) -> None:
    """Compare names and shapes.

    Args:
        path: Of the file, for messages.
        parameters: What was read.
        wanted: What is expected.
        what: What it is to fit, for messages: "4 layers on 'ViT-L-14-336/openai'".

    Raises:
        CheckpointError: Anything is missing, unknown or of another shape; the message names the first.
    """
    found = {name: tuple(value.shape) for name, value in parameters.items()}
    if found != dict(wanted):
        differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(
            f"'{path}' does not fit {what}, first at '{differ[0]}': expected shape {wanted.get(differ[0])}, found "
            f"{found.get(differ[0])}."
        )


def whose(path: str | Path, method: str, otherwise: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return what an authors' file was trained on, which the table of published files knows by its hash.

    Args:
        path: The file.
        method: Class name of the method that is about to read it.
        otherwise: The data sets, where the table does not know the file.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is the published file of another method, which may well have the same layout.
    """
    path = local_file(path)
    try:
        entry = store.refuse_another(path, method)
    except MismatchError as error:
        raise CheckpointError(str(error)) from error
    if entry is not None:
        return entry.training
    return [{"name": name} for name in otherwise] or [{"name": f"unknown data (the authors' file {path.name})"}]


# ---- AnomalyCLIP

_REPEATED = ("token_prefix_", "token_suffix_", "tokenized_prompts_", "compound_prompt_projections.")


def read_anomalyclip(path: str | Path) -> AuthorState:
    """Return the prompts of a file that AnomalyCLIP's training script wrote; ``ctx_pos`` is the *normal* context.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: Its layout is another one.
    """
    loaded = read_tensors(path)
    if isinstance(loaded, dict):
        loaded = loaded.get("prompt_learner", loaded)
    state = only_tensors(path, loaded, "AnomalyCLIP's prompt learner")
    deep_names = [name for name in state if name.startswith("compound_prompts_text.")]
    deep_names = [f"compound_prompts_text.{index}" for index in range(len(deep_names))]
    try:
        contexts = [state[name][0, 0].float() for name in ("ctx_pos", "ctx_neg")]
        deep = [state[name].float() for name in deep_names]
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"'{path}' is no checkpoint of AnomalyCLIP's released code: {error} is missing; it holds "
            f"{sorted(state)[:6]}."
        ) from error
    rest = {name: value for name, value in state.items() if name not in {"ctx_pos", "ctx_neg", *deep_names}}
    if unknown := sorted(name for name in rest if not name.startswith(_REPEATED)):
        raise CheckpointError(f"'{path}' holds {unknown[:6]}, which AnomalyCLIP's released code does not write.")
    parameters = {"prompts.ctx_normal": contexts[0], "prompts.ctx_abnormal": contexts[1]}
    parameters |= {f"prompts.deep_tokens.{index}": value for index, value in enumerate(deep)}
    options: dict[str, Any] = {"n_ctx": len(contexts[0]), "depth": len(deep) + 1}
    if deep:
        options["n_deep"] = len(deep[0])
    return AuthorState(parameters, options, rest)


def _anomalyclip_shapes(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shapes:
    width = config["text_cfg"]["width"]
    context = (options.get("n_ctx", 12), width)
    deep = range(options.get("depth", 9) - 1)
    return {
        "prompts.ctx_normal": context,
        "prompts.ctx_abnormal": context,
        **{f"prompts.deep_tokens.{index}": (options.get("n_deep", 4), width) for index in deep},
    }


# ---- VAND


def read_vand(path: str | Path) -> AuthorState:
    """Return the linear layers of a file that VAND's training script wrote.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: Its layout is another one.
    """
    loaded = read_tensors(path)
    state = loaded.get("trainable_linearlayer") if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        keys = sorted(map(str, loaded)) if isinstance(loaded, dict) else type(loaded).__name__
        raise CheckpointError(
            f"'{path}' is no checkpoint of VAND's released code: it needs 'trainable_linearlayer', it holds {keys}."
        )
    layers = only_tensors(path, state, "VAND's linear layers")
    return AuthorState({name: value.float() for name, value in layers.items()}, {}, {})


def _vand_shapes(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shapes:
    width, dim = config["vision_cfg"]["width"], config["embed_dim"]
    depth = config["vision_cfg"]["layers"]
    count = len(options.get("layers") or quarters(depth))
    shapes: dict[str, tuple[int, ...]] = {f"fc.{index}.weight": (dim, width) for index in range(count)}
    return shapes | {f"fc.{index}.bias": (dim,) for index in range(count)}


# ---- methods in folders of their own, whose readers import this module


def _adaclip() -> Reader:
    from zsad.methods.adaclip.author import adaclip_shapes, read_adaclip

    return Reader(lambda files: read_adaclip(files[0]), adaclip_shapes)


def _visualad() -> Reader:
    from zsad.methods.visualad.checkpoint import read_visualad, visualad_shapes

    return Reader(lambda files: read_visualad(files[0]), visualad_shapes)


# ---- the table's files


READERS: dict[str, Reader] = {
    "anomalyclip": Reader(lambda files: read_anomalyclip(files[0]), _anomalyclip_shapes),
    "vand": Reader(lambda files: read_vand(files[0]), _vand_shapes),
    "adaclip": Reader(lambda files: _adaclip().read(files), lambda config, options: _adaclip().shapes(config, options)),
    "visualad": Reader(
        lambda files: _visualad().read(files), lambda config, options: _visualad().shapes(config, options)
    ),
}
"""Layout in the table of published files -> reader."""


def reader_of(entry: WeightsEntry) -> Reader:
    """Return the reader of an entry's layout.

    Raises:
        NotPublishedError: There is none: before anything is fetched.
    """
    reader = READERS.get(entry.layout)
    if reader is None or entry.status == "other":
        raise NotPublishedError(
            f"'{entry.name}' is published ({entry.files[0].url}), but zsad does not read it yet. {entry.note}".strip()
        )
    return reader


def convert(entry: WeightsEntry, files: Sequence[Path]) -> bytes:
    """Return published files as a file of ``save_weights``: the same input gives the same bytes.

    Raises:
        CheckpointError: They hold anything but the tensors that the table's backbone and options ask for.
        NotPublishedError: There is no reader for their layout.
    """
    reader = reader_of(entry)
    stored = reader.read(files)
    wanted = reader.shapes(model_config(str(entry.backbone)), entry.options)
    check_shapes(files[0], stored.parameters, wanted, f"'{entry.name}' on '{entry.backbone}'")
    made = {
        "method": entry.method,
        "backbone": entry.backbone,
        "version": __version__,
        "trained_on": entry.training,
        "hyper_parameters": {**entry.options, **stored.options, "backbone": entry.backbone},
    }
    tensors = {f"parameters.{name}": value.contiguous() for name, value in stored.parameters.items()}
    return save(tensors, metadata={"zsad": json.dumps(made)})


def weights_path(
    name: str,
    *,
    offline: bool | None = None,
    mirror: str | None = None,
    keep: bool = False,
    report: Report | None = None,
) -> Path:
    """Return the file of published adapters, ``"anomalyclip/visa"`` for example; fetch them if they are not here.

    The file is one of ``save_weights``. What is in the cache is compared with its note, without any connection.

    Args:
        name: As :func:`zsad.list_weights` shows it.
        offline: True opens no connection; None leaves it to ``HF_HUB_OFFLINE`` and ``ZSAD_OFFLINE``.
        mirror: Address or folder that is asked first; None leaves it to ``ZSAD_WEIGHTS_MIRROR``.
        keep: Whether the authors' own file stays beside the converted one.
        report: Called with (bytes so far, bytes in all or None) while downloading.

    Raises:
        UnknownAdaptersError: There are none of that name.
        NotPublishedError: Their authors published nothing, or nothing that zsad can read.
        NotHereError: They are not on this machine and cannot be fetched.
        DownloadError: The download failed, or gave another file than expected.
        CheckpointError: The file does not hold what it should.
    """
    entry = find(name)
    reader_of(entry)
    return store.obtain(entry, convert, Asked(offline, mirror, keep, report))
