"""A fit whose frozen tower runs once per image, and whose data order depends on seed and epoch alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.progress import track
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from zsad import __version__
from zsad.clip.tensor_store import CacheDtype, CacheWriteError, TokenCache, default_folder, tower_key
from zsad.clip.token_cache import CachedSamples, cache_samples
from zsad.methods.base import Method
from zsad.methods.provenance import identity
from zsad.training.order import EpochSampler

_OWN_OPTIONS = {
    "seed",
    "cache",
    "cache_dtype",
    "cache_dir",
    "allow_same_data",
    "metrics",
    "sigma",
    "shots",
    "references",
    "shot_seed",
}


class CachedFeatures(Method):
    """What :class:`~zsad.methods.trained.TrainedMethod` does before the first epoch."""

    seed: int
    cache: Literal["auto", "on", "off"]
    cache_dtype: CacheDtype
    cache_dir: str | None
    trained_on: list[dict[str, Any]]
    _first_epoch: int

    def frozen_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return everything that :meth:`loss` needs of the frozen tower, batch first, without graph.

        A child that does not define it trains without cache.

        Args:
            image: Normalised images, (batch, 3, height, width).
        """
        raise NotImplementedError

    def cache_settings(self) -> dict[str, Any]:
        """Return the options that decide :meth:`frozen_features`; all of the method's own unless a child says less."""
        return {name: value for name, value in self.hparams.items() if name not in _OWN_OPTIONS}

    def on_fit_start(self) -> None:
        """Note what is trained on, fill the token cache and fix the order of the images."""
        trainer: Any = self.trainer  # some of its attributes have no type
        self.trained_on = identity(trainer.datamodule)
        if trainer.reload_dataloaders_every_n_epochs:
            rank_zero_info("Token cache off: the Trainer reloads the data loaders between epochs.")
            return
        loader: Any = trainer.fit_loop._data_source.dataloader()
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
            rank_zero_info("Token cache off: the training data are not one DataLoader of a map-style data set.")
            return
        sizes = getattr(loader.dataset, "sizes", [len(loader.dataset)])  # joined data know those of their parts
        for one, size in zip(self.trained_on, sizes, strict=True):
            one["images"] = size
        _shuffle_by_epoch(loader, self.seed, self._first_epoch)
        self._first_epoch = 0
        reason = self._why_not_cache(loader)
        cached = self._cached(loader) if reason is None else None
        if reason is not None:
            rank_zero_info(f"Token cache off: {reason}. The image tower runs in every epoch.")
        # the Trainer has no public way to replace a data module's loader once the model is on its device
        trainer.fit_loop._data_source.instance = loader if cached is None else cached

    def _why_not_cache(self, loader: DataLoader[Any]) -> str | None:
        trainer: Any = self.trainer
        dataset: Any = loader.dataset
        if self.cache == "off":
            return "cache='off'"
        if type(self).frozen_features is CachedFeatures.frozen_features:
            return f"{type(self).__name__} has no image features that stay the same while it learns"
        if isinstance(dataset, IterableDataset) or loader.batch_sampler is None:
            return "the data set has no indices or the loader no batches"
        limit = trainer.limit_train_batches  # 1.0 is all of them, the integer 1 is one batch
        if trainer.fast_dev_run or trainer.overfit_batches or limit != 1.0 or isinstance(limit, int):
            return "only a part of the training data is used"
        if getattr(dataset, "augment", None) is not None or bool(getattr(dataset, "stitch", False)):
            return "the training data are augmented"
        if self.cache == "auto" and not hasattr(dataset, "augment"):
            return (
                f"{type(dataset).__name__} does not declare that it gives the same image every time (an attribute "
                f"augment=None); cache='on' vouches for it"
            )
        return None

    def _cached(self, loader: DataLoader[Any]) -> DataLoader[Any] | None:
        trainer = self.trainer
        settings = {
            "version": __version__,
            "method": type(self).__qualname__,
            "options": self.cache_settings(),
            "position": self.clip.position,
            "precision": str(trainer.precision),
            "matmul": torch.get_float32_matmul_precision(),
            "device": self.device.type,
            "dtype": self.cache_dtype,
        }
        folder = Path(self.cache_dir).expanduser() if self.cache_dir else default_folder()
        folder = folder / tower_key(self.clip.model.visual, settings)[:32]
        problem = ""
        entries: dict[int, Any] = {}
        try:
            cache = TokenCache(folder, self.cache_dtype)
            mine = range(trainer.global_rank, len(loader.dataset), trainer.world_size)  # type: ignore[arg-type]
            made = cache_samples(
                loader.dataset, self._encode, cache, loader.batch_size or 1, loader.num_workers, mine, self._progress
            )
            entries = dict(zip(mine, made, strict=True))
        except CacheWriteError as error:
            problem = str(error)
        if not trainer.strategy.reduce_boolean_decision(not problem, all=True):
            rank_zero_warn(
                f"Token cache off: {problem or 'another process could not write it'}. Every epoch runs the tower."
            )
            return None
        if trainer.world_size > 1:
            everyone: list[dict[int, Any]] = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(everyone, entries)
            entries = {index: entry for part in everyone for index, entry in part.items()}
        rank_zero_info(f"Token cache: features of {len(entries)} images in '{folder}'.")
        return CachedSamples([entries[index] for index in sorted(entries)], cache).loader(loader)

    def _encode(self, image: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            return self.frozen_features(image.to(self.device))

    def _progress(self, batches: Iterable[Any]) -> Iterable[Any]:
        show = self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
        return track(batches, "Image tower, once per image", disable=not show, transient=True)


def _shuffle_by_epoch(loader: DataLoader[Any], seed: int, epoch: int) -> None:
    """Make a shuffling loader's order depend on seed and epoch alone; other orders are the user's business.

    Args:
        loader: Changed in place.
        seed: Of the method.
        epoch: The first one of this fit.
    """
    batches = loader.batch_sampler
    if type(batches) is BatchSampler and type(batches.sampler) is RandomSampler:
        sampler = batches.sampler
        if not sampler.replacement and sampler.generator is None and sampler.num_samples == len(sampler.data_source):
            epochs = EpochSampler(sampler.data_source, seed)
            epochs.set_epoch(epoch)
            batches.sampler = epochs
            loader.generator = epochs.worker_generator
