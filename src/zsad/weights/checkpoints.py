"""The one door for checkpoints: local files of tensors and plain values, read without running what is in them.

Everything that reads a file of learned numbers comes here: the commands, ``load_model``, ``load_from_checkpoint``, the
readers of the authors' files, and Lightning's Trainer by way of :class:`CheckpointFiles`.
"""

import io
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import safe_open

from zsad.weights.files import write_whole

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+:")  # at least two letters: 'C:\...' is a drive


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or does not fit the method that is asked to load it."""


def is_url(path: object) -> bool:
    """Whether something names a place that is not on this machine, or a chain of such places."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else str(path)
    return "://" in text or "::" in text or (bool(_URL.match(text)) and not os.path.exists(text))


def local_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a checkpoint on this machine.

    Raises:
        CheckpointError: It is a URL, or a folder (sharded checkpoints are not read).
        FileNotFoundError: There is no such file.
    """
    if is_url(path):
        raise CheckpointError(
            f"Checkpoints are read from this machine only, got '{os.fspath(path)}': download the file, see that it "
            f"is from whom you think it is, and give its path."
        )
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"'{path}' is a folder; give the path of a checkpoint file.")
    if not path.is_file():
        raise FileNotFoundError(f"No such checkpoint: '{path}'.")
    return path


def read_tensors(path: str | os.PathLike[str] | IO[bytes], map_location: Any = "cpu") -> Any:
    """Return what is in a PyTorch file of tensors and plain values, whoever wrote it; nothing in it is run.

    Args:
        path: The file, or one that is open.
        map_location: See :func:`torch.load`.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is a URL or a folder, it is damaged, or it asks for more than tensors and plain values.
    """
    source = local_file(path) if isinstance(path, (str, os.PathLike)) else path
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # what matters is said below
            # passed by name: without it, Lightning and an environment variable may each decide otherwise
            return torch.load(source, map_location=map_location, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"'{path}' cannot be read as a checkpoint: {_why(error)}.") from error


def _why(error: Exception) -> str:
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it asks for '{found[1]}', and only tensors and plain values are read, never code"
    if "weights_only" in text.lower() or "Weights only" in text:
        return "it holds more than tensors and plain values, or is damaged; code is never read"
    return f"it is damaged or of another kind ({type(error).__name__})"


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a file of ``save_weights``, laid out like a Lightning checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is something else.
    """
    path = local_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            made = json.loads((file.metadata() or {})["zsad"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        parts: dict[str, dict[str, Any]] = {"parameters": {}, "zsad": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        hyper_parameters = dict(made.pop("hyper_parameters"))
        return {"state_dict": parts["parameters"], "zsad": made | parts["zsad"], "hyper_parameters": hyper_parameters}
    except Exception as error:  # whatever the file holds, the answer is the same
        raise CheckpointError(f"'{path}' was not written by save_weights: {type(error).__name__} {error}") from error


def read_checkpoint(path: str | os.PathLike[str] | IO[bytes], map_location: Any = "cpu") -> dict[str, Any]:
    """Return what is in a file of ``zsad fit``, of ``save_weights`` or of a paper's authors; no code in it is run.

    Returns:
        A Lightning checkpoint; one of ours has the key ``"zsad"``, and ``"state_dict"``.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is a URL or a folder, or holds no dictionary of tensors and plain values.
    """
    if isinstance(path, (str, os.PathLike)) and Path(path).suffix == ".safetensors":
        return read_weights(path)
    content = read_tensors(path, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' cannot be read as a checkpoint: it holds {type(content).__name__}, no dict.")
    return content


def is_ours(content: dict[str, Any]) -> bool:
    """Whether a checkpoint was written by a method of this library."""
    return isinstance(content.get("zsad"), dict) and isinstance(content.get("state_dict"), dict)


class CheckpointFiles(CheckpointIO):
    """How a Trainer reads and writes checkpoints of zsad's methods; every Trainer that runs one gets it by itself.

    It reads through this module's door, and a checkpoint stands under its name only when it is complete.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint whole or not at all.

        Raises:
            TypeError: ``storage_options`` are given.
            CheckpointError: The path is a URL.
            DiskError: It cannot be written, for example because the disk is full.
        """
        if storage_options is not None:
            raise TypeError(f"{type(self).__name__} takes no storage_options, got {storage_options!r}.")
        if is_url(path):
            raise CheckpointError(f"Checkpoints are written to this machine only, got '{path}'.")
        buffer = io.BytesIO()  # in memory first: torch hides what the disk says
        torch.save(checkpoint, buffer)
        write_whole(path, buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Return a local checkpoint of tensors and plain values.

        Raises:
            ValueError: ``weights_only`` is False.
            FileNotFoundError: There is no such file.
            CheckpointError: It is a URL, or holds something else.
        """
        refuse_pickles(weights_only)
        return read_checkpoint(path, map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint file; nothing happens if it is not there."""
        path = Path(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def refuse_pickles(weights_only: bool | None) -> None:
    """Raise if somebody asks for code to be read.

    Raises:
        ValueError: ``weights_only`` is False.
    """
    if weights_only is False:
        raise ValueError("weights_only=False is refused: a checkpoint is read as tensors and plain values, never code.")
