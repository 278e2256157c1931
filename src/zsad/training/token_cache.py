"""Features of a frozen tower on disk: the tower sees each training image once, not once per epoch."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate

CacheDtype = Literal["float32", "float16"]
Encode = Callable[[Tensor], dict[str, Tensor]]
"""(batch, 3, height, width) -> features by name, batch first."""

_FORMAT = 1
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


def tower_key(tower: nn.Module, settings: Mapping[str, Any]) -> str:
    """Return a hash of a tower's weights, its structure (activations included) and whatever else decides its output.

    Args:
        tower: The frozen module.
        settings: Values that JSON can hold.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(repr(tower).encode())
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor_key(tensor).encode())
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


class EpochSampler(RandomSampler):
    """Shuffle by seed and epoch alone, so that an interrupted fit continues with the order it would have had.

    Lightning calls :meth:`set_epoch` before each epoch.

    Args:
        data_source: Anything with a length.
        seed: Any integer >= 0.
    """

    def __init__(self, data_source: Sized, seed: int) -> None:
        super().__init__(data_source, generator=torch.Generator())
        self.seed = seed
        self.worker_generator = torch.Generator()
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, and the seeds of its loader's workers."""
        for generator in (self.generator, self.worker_generator):
            generator.manual_seed(self.seed + epoch)


class _Keyed(Dataset[tuple[str, Any]]):
    """Samples with the hash of their image, computed where the image is decoded: in the loader's workers."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[str, Any]:
        sample = self.dataset[self.indices[position]]
        return (tensor_key(sample["image"]) if isinstance(sample, dict) else ""), sample


Entry = dict[str, Any]
"""A sample without image and mask: ``features`` and ``mask`` are keys of the cache."""


def cache_samples(
    dataset: Any,
    encode: Encode,
    cache: TokenCache,
    batch_size: int = 1,
    num_workers: int = 0,
    indices: Sequence[int] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Iterator[Entry | None]:
    """Encode the images that the cache does not hold yet, and yield one entry per sample, in order.

    Args:
        dataset: Map-style, of dicts with the keys of :class:`~zsad.types.Batch`; anything else in place of a dict is an
            image that could not be read and gives None.
        encode: The frozen tower.
        cache: Filled.
        batch_size: Images per call of the tower.
        num_workers: Processes that decode.
        indices: Which samples; all by default.
        progress: Wraps the batches, for a progress bar.

    Raises:
        CacheWriteError: If the disk cannot take all entries.
    """
    indices = range(len(dataset)) if indices is None else indices
    loader: Iterable[list[tuple[str, Any]]] = DataLoader(
        _Keyed(dataset, indices), batch_size, num_workers=num_workers, collate_fn=list
    )
    done = 0
    for batch in progress(loader):
        missing = {key: sample["image"] for key, sample in batch if isinstance(sample, dict) and key not in cache}
        for shape in {image.shape for image in missing.values()}:
            alike = {key: image for key, image in missing.items() if image.shape == shape}
            features = encode(torch.stack(list(alike.values())))
            for row, key in enumerate(alike):
                size = cache.put(key, {name: values[row] for name, values in features.items()})
            _check_space(cache.folder, size * (len(indices) - done - len(missing)))
        done += len(batch)
        for key, sample in batch:
            yield _entry(key, sample, cache) if isinstance(sample, dict) else None


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CacheWriteError(
            f"The token cache still needs {needed / 1e9:.1f} GB in '{folder}', {free / 1e9:.1f} GB are free: give "
            f"cache_dir= a folder on another disk, or cache_dtype='float16'"
        )


def _entry(key: str, sample: dict[str, Any], cache: TokenCache) -> Entry:
    entry = {name: value for name, value in sample.items() if name not in ("image", "gt_mask", "warning")}
    entry["features"] = key
    if "gt_mask" in sample:
        mask = sample["gt_mask"].bool()
        entry["mask_shape"] = tuple(mask.shape)
        entry["mask"] = None
        if mask.any():
            entry["mask"] = f"mask-{tensor_key(mask)}"
            if entry["mask"] not in cache:
                cache.put(entry["mask"], {"bits": torch.from_numpy(np.packbits(mask.numpy()))})
    return entry


class CachedSamples(Dataset[Entry | None]):
    """The samples of a data set with ``features`` in place of ``image``.

    Args:
        entries: What :func:`cache_samples` yielded.
        cache: Where it put the tensors.
    """

    def __init__(self, entries: Sequence[Entry | None], cache: TokenCache) -> None:
        self.entries = entries
        self.cache = cache

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Entry | None:
        entry = self.entries[index]
        if entry is None:
            return None
        sample = {name: value for name, value in entry.items() if name not in ("mask", "mask_shape")}
        sample["features"] = self.cache.get(entry["features"])
        if "mask" in entry:
            sample["gt_mask"] = self._mask(entry["mask"], entry["mask_shape"])
        return sample

    def _mask(self, key: str | None, shape: tuple[int, ...]) -> Tensor:
        if key is None:
            return torch.zeros(shape, dtype=torch.bool)
        bits = np.unpackbits(self.cache.get(key)["bits"].numpy(), count=int(np.prod(shape)))
        return torch.from_numpy(bits.astype(bool)).reshape(shape)

    def loader(self, like: DataLoader[Any]) -> DataLoader[Entry | None]:
        """Return batches in the order in which ``like`` would have given them."""
        chosen: dict[str, Any] = {"batch_sampler": like.batch_sampler}
        if like.batch_size is not None:
            sampler = getattr(like.batch_sampler, "sampler", like.sampler)
            chosen = {"batch_size": like.batch_size, "sampler": sampler, "drop_last": like.drop_last}
        return DataLoader(
            self, collate_fn=collate_cached, pin_memory=like.pin_memory, generator=like.generator, **chosen
        )


def collate_cached(samples: Sequence[Entry | None]) -> Any:
    """Return the samples as one batch without those that could not be read; None if there are no others."""
    good = [sample for sample in samples if sample is not None]
    return default_collate(good) if good else None
