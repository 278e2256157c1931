"""Text embeddings on disk: a text tower sees each list of prompts once per machine, not at every start."""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from zsad.clip.tensor_store import CacheWriteError, Digests, TokenCache, tensor_key
from zsad.weights.places import home

_MOST = 256 * 2**20  # bytes; AnoVL's prompts of a class take about one million


class TextStoreWarning(UserWarning):
    """Stored text embeddings cannot be read or written; they are computed, nothing is lost."""


class TextStore:
    """A folder of text embeddings by what decides them; those that were not used for longest make way for new ones.

    Args:
        folder: Where; made when something is kept. By default ``text`` in ``$ZSAD_HOME``.
        most: Bytes that all entries may take together.
    """

    def __init__(self, folder: Path | None = None, most: int = _MOST) -> None:
        self.folder = home() / "text" if folder is None else folder
        self.most = most

    def get(self, key: str) -> Tensor | None:
        """Return an entry, bit for bit as it was kept, on the CPU; None if there is none, or a damaged one."""
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            return None
        try:
            found = TokenCache(self.folder).get(key)
            if "text" not in found or bytes(found["sha256"].tolist()).hex() != tensor_key(found["text"]):
                raise ValueError("its content is not what was written")
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(
                f"The stored text embeddings '{path}' are damaged and computed again: {error}.",
                TextStoreWarning,
                stacklevel=2,
            )
            return None
        with suppress(OSError):
            os.utime(path)
        return found["text"]

    def put(self, key: str, text: Tensor) -> None:
        """Keep an entry; a folder that cannot be written to is worth a warning, no more."""
        digest = torch.tensor(list(bytes.fromhex(tensor_key(text))), dtype=torch.uint8)
        try:
            TokenCache(self.folder).put(key, {"text": text, "sha256": digest})
        except CacheWriteError as error:
            warnings.warn(f"Text embeddings are not kept: {error}", TextStoreWarning, stacklevel=2)
            return
        self._make_way()

    def entries(self) -> list[tuple[float, int, Path]]:
        """Return when each entry was last used, its size in bytes and its file, the oldest first."""
        found = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another process makes way
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
        return sorted(found)

    def clear(self) -> int:
        """Delete all entries and return the number of bytes that this freed."""
        return sum(self._delete(path, size) for _, size, path in self.entries())

    def _make_way(self) -> None:
        entries = self.entries()
        over = sum(size for _, size, _ in entries) - self.most
        for _, size, path in entries:
            if over <= 0:
                break
            over -= self._delete(path, size)

    @staticmethod
    def _delete(path: Path, size: int) -> int:
        with suppress(FileNotFoundError):
            path.unlink()
        return size


def tower_hash(model: nn.Module, digests: Digests) -> str:
    """Return a hash of everything in an open_clip model that decides its text embeddings.

    Args:
        model: The model.
        digests: What is known of its tensors.
    """
    digest = hashlib.sha256(repr(model.transformer).encode())
    named = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        if not name.startswith("visual."):
            digest.update(f"{name} {digests(name, tensor)}".encode())
    return digest.hexdigest()


def entry_key(tower: str, precision: str, device: str, texts: Sequence[str]) -> str:
    """Return the key of an entry.

    Args:
        tower: Hash of the text tower, its context length among it.
        precision: Of its blocks.
        device: Kind of device that computes.
        texts: Prompts; open_clip's tokenizer, which goes with its version, decides the rest.
    """
    said = [2, open_clip.__version__, tower, precision, device, *texts]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
