"""Tensors on disk, one memory-mapped file per key, and the keys: hashes of tensors and of towers."""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

CacheDtype = Literal["float32", "float16"]
_STALE = 3600.0  # seconds after which a temporary file belongs to a run that was killed


class CacheWriteError(OSError):
    """The features cannot be written: the disk is too small, or the folder cannot be used."""


def default_folder() -> Path:
    """Return where features are kept by default: ``$ZSAD_CACHE``, or ``zsad/tokens`` in the user's cache folder."""
    if given := os.environ.get("ZSAD_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "zsad" / "tokens"


def tensor_key(*tensors: Tensor) -> str:
    """Return a hash of the tensors' bytes, shapes and types."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


class Digests:
    """Hashes of the tensors of one module by name, each computed once as long as the tensor stays as it is.

    A tensor is known to have changed by its place in memory and by torch's own count of writes, which leaves out those
    through ``.data`` and those to inference tensors.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[tuple[int, int], str]] = {}

    def __call__(self, name: str, tensor: Tensor) -> str:
        """Return the :func:`tensor_key` of a tensor."""
        state = tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
        known = self._found.get(name)
        if known is None or known[0] != state:
            known = self._found[name] = state, tensor_key(tensor)
        return known[1]

    def clear(self) -> None:
        """Forget all: the tensors are about to be others."""
        self._found.clear()


def tower_key(tower: nn.Module, settings: Mapping[str, Any], digests: Digests | None = None) -> str:
    """Return a hash of a tower's weights, its structure (activations included) and whatever else decides its output.

    Args:
        tower: The frozen module.
        settings: Values that JSON can hold.
        digests: What is known of its tensors; None computes all of them.
    """
    digests = Digests() if digests is None else digests
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(repr(tower).encode())
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(digests(name, tensor).encode())
    return digest.hexdigest()


class TokenCache:
    """A folder of tensors by key, one memory-mapped file per key.

    A file appears under its name only when it is complete, so a killed run leaves nothing half-written, and two
    processes that write the same key write the same bytes. Reading maps the file: the memory in use does not grow with
    the number of entries.

    Args:
        folder: Where; made if missing.
        dtype: How floating-point tensors are kept; ``"float16"`` halves the size and rounds to 11 significant bits.

    Raises:
        CacheWriteError: If the folder cannot be made.

    Example:
        >>> cache = TokenCache(Path(tempfile.mkdtemp()))
        >>> cache.put("a", {"cls": torch.ones(2)})
        >>> cache.get("a")["cls"].tolist(), "b" in cache
        ([1.0, 1.0], False)
    """

    def __init__(self, folder: Path, dtype: CacheDtype = "float32") -> None:
        if dtype not in ("float32", "float16"):
            raise ValueError(f"cache_dtype must be 'float32' or 'float16', got '{dtype}'.")
        self.folder = folder
        self.dtype = torch.float32 if dtype == "float32" else torch.float16
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheWriteError(f"Cannot make the token cache's folder '{folder}': {error}") from error
        for left in folder.glob("*.part"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE:
                    left.unlink()

    def path(self, key: str) -> Path:
        """Return the file of a key, whether it exists or not."""
        return self.folder / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        try:
            with safe_open(self.path(key), framework="pt"):  # checks header and length
                return True
        except (OSError, SafetensorError):
            return False

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> int:
        """Write an entry and return its size in bytes.

        Raises:
            CacheWriteError: If that is not possible, for example because the disk is full.
        """
        stored = {
            name: (tensor.to(self.dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
            for name, tensor in tensors.items()
        }
        part = ""
        try:
            handle, part = tempfile.mkstemp(suffix=".part", dir=self.folder)
            os.close(handle)
            save_file(stored, part)
            size = os.path.getsize(part)
            os.replace(part, self.path(key))
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(part)
            if isinstance(error, (OSError, SafetensorError)):
                raise CacheWriteError(f"Cannot write to the token cache '{self.folder}': {error}") from error
            raise
        return size

    def get(self, key: str) -> dict[str, Tensor]:
        """Return an entry as tensors that read from the mapped file when they are used.

        Raises:
            FileNotFoundError: If it is gone, for example because somebody emptied the folder during a run.
        """
        try:
            with safe_open(self.path(key), framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise FileNotFoundError(
                f"Entry '{key}' of the token cache '{self.folder}' cannot be read ({error}); start the fit again, "
                f"it is written anew, or switch the cache off with cache='off'."
            ) from error
