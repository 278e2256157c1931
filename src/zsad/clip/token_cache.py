"""Features of a frozen tower on disk: the tower sees each training image once, not once per epoch."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from zsad.clip.tensor_store import CacheWriteError, TokenCache, tensor_key

Encode = Callable[[Tensor], dict[str, Tensor]]
"""(batch, 3, height, width) -> features by name, batch first."""


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
