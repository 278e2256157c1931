"""What methods with something to fit share: token cache, reproducible data order, and the memory of their data."""

import json
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import Self

from zsad.clip import Clip
from zsad.clip.tensor_store import CacheDtype
from zsad.clip.token_cache import CachedSamples
from zsad.methods import pretrained
from zsad.methods.cached import CachedFeatures
from zsad.methods.provenance import SameDataError, as_data_sets, describe_training, overlap
from zsad.methods.restoring import restore
from zsad.types import Batch, Prediction
from zsad.weights import notices
from zsad.weights.checkpoints import CheckpointError, read_weights
from zsad.weights.files import write_whole


class UntrainedWarning(UserWarning):
    """A method predicts with the initial values of what it should have learned."""


class TrainedMethod(CachedFeatures):
    """A method that learns something on top of the frozen backbone; a child adds :meth:`loss`.

    The image tower runs once per training image, not once per epoch: its features are kept on disk, keyed by weights,
    options and image content, and found again by later fits. With augmentation, the cache is off.

    Args:
        backbone: Backbone name or a loaded one.
        seed: Of the initial values and of the order of the images in every epoch.
        cache: ``"auto"`` keeps features if the data set declares that it does not augment (``augment is None``),
            ``"on"`` keeps them for any data set, which must then give the same image every time, ``"off"`` never.
        cache_dtype: Precision on disk; ``"float16"`` halves the size and rounds.
        cache_dir: Folder of the features; by default ``$ZSAD_CACHE`` or ``~/.cache/zsad/tokens``.
        allow_same_data: Permit a test on the data set that the model was trained on.
        **kwargs: Options of :class:`~zsad.methods.base.Method`.
    """

    published_epochs: ClassVar[int]
    """Epochs of the published training."""
    published_batch_size: ClassVar[int]
    """Batch size of the published training."""
    free_options = frozenset({"cache", "cache_dtype", "cache_dir", "allow_same_data"})
    training_stages: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """Options of each fit that a finished model takes, in order; one fit unless a child says otherwise."""
    previous_stage: ClassVar[str] = ""
    """Option that takes the weights file of the stage before."""

    def __init__(
        self,
        backbone: str | Clip,
        seed: int = 111,
        cache: Literal["auto", "on", "off"] = "auto",
        cache_dtype: CacheDtype = "float32",
        cache_dir: str | None = None,
        allow_same_data: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if cache not in ("auto", "on", "off"):
            raise ValueError(f"cache must be 'auto', 'on' or 'off', got '{cache}'.")
        if cache_dtype not in ("float32", "float16"):
            raise ValueError(f"cache_dtype must be 'float32' or 'float16', got '{cache_dtype}'.")
        self.seed = seed
        self.cache = cache
        self.cache_dtype: CacheDtype = cache_dtype
        self.cache_dir = cache_dir
        self.allow_same_data = allow_same_data
        self._trained_on: list[dict[str, Any]] = []
        self.cards: list[dict[str, Any]] = []
        """Calibration cards that came with the parameters, as JSON has them; a fit drops them."""
        self._warned = False
        self._first_epoch = 0

    def require(self, batch: Batch, *keys: Literal["gt_label", "gt_mask"]) -> None:
        """Refuse a batch without what the method learns from.

        Raises:
            ValueError: It is missing.
        """
        for key in keys:
            if key not in batch:
                raise ValueError(f"{type(self).__name__} learns from {key}, {batch['image_path'][0]} has none.")

    def features_of(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the frozen tower gives of a batch: kept earlier, or computed now."""
        return batch["features"] if "features" in batch else self.frozen_features(batch["image"])

    @property
    def trained_on(self) -> list[dict[str, Any]]:
        """What the parameters were fitted to, per data set: name, root, classes, images, epochs; empty before a fit."""
        return self._trained_on

    @trained_on.setter
    def trained_on(self, found: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        self._trained_on = as_data_sets(found)

    @property
    def licence_notice(self) -> str | None:
        """Terms of the published adapters in this model, as results carry them; None if they are not published ones."""
        return notices.notice_of(self.trained_on)

    # ---- what a child writes

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the objective as ``loss`` and whatever else should be logged.

        Args:
            batch: With ``features``, as :meth:`frozen_features` returned them; where they are absent, with ``image``.
        """

    def published_fit(self, source: str) -> tuple[int, dict[str, Any]]:
        """Return epochs, and options of the data module, of the published training; the last epoch is what is reported.

        Args:
            source: Name of the data set to train on, for example ``"mvtec_ad"``.
        """
        return self.published_epochs, {}

    def forward(
        self, image: Tensor, class_names: Sequence[str], image_paths: Sequence[str] | None = None
    ) -> Prediction:
        """Return what :meth:`Method.forward` returns; warn once if nothing was learned yet."""
        if not self.trained_on and not self._warned and any(value.numel() for value in self.state_dict().values()):
            self._warned = True
            warnings.warn(
                f"{type(self).__name__} is not trained: its learned part has its initial values. Fit it, or load a "
                f"checkpoint or a weights file.",
                UntrainedWarning,
                stacklevel=2,
            )
        return super().forward(image, class_names, image_paths)

    # ---- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log each loss and return the objective."""
        features = batch.get("features", {})
        features.update({name: value.float() for name, value in features.items() if value.dtype == torch.float16})
        losses = self.loss(batch)
        for name, value in losses.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=len(batch["image_path"]))
        return losses["loss"]

    def on_train_epoch_start(self) -> None:
        """Seed random augmentation in this process by epoch, so that a resumed fit continues alike."""
        self.cards = []
        loader = self.trainer.train_dataloader
        if isinstance(loader, DataLoader) and loader.num_workers == 0 and not isinstance(loader.dataset, CachedSamples):
            torch.manual_seed(self.seed + self.current_epoch)
            if hasattr(loader.dataset, "seed_worker"):
                loader.dataset.seed_worker(0)

    def on_train_epoch_end(self) -> None:
        """Count the epochs that are behind the parameters."""
        for one in self.trained_on:
            one["epochs"] = self.current_epoch + 1

    # ---- what it was trained on

    def on_test_start(self) -> None:
        """Say what the model was trained on, and refuse a test on the same data.

        Raises:
            SameDataError: Unless ``allow_same_data``, or the data module's own ``allow_same``.
        """
        super().on_test_start()
        if not self.trained_on:
            rank_zero_info(f"{type(self).__name__}: not trained, or trained on unknown data.")
            return
        rank_zero_info(f"{type(self).__name__} was trained on {describe_training(self.trained_on)}.")
        trainer: Any = self.trainer
        datamodule = trainer.datamodule
        if self.allow_same_data or getattr(datamodule, "allow_same", False) or datamodule is None:
            return
        if (tested := overlap(self.trained_on, datamodule)) is not None:
            raise SameDataError(
                f"The model was trained on {describe_training(self.trained_on)} and is to be tested on "
                f"{tested}: not a zero-shot result. Test on another data set or on other classes, or pass "
                f"allow_same_data=True."
            )

    # ---- state

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the model was trained on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["zsad"]["trained_on"] = as_data_sets(self.trained_on)
        if self.cards:
            checkpoint["zsad"]["calibration"] = self.cards

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint and read what it was trained on."""
        super().on_load_checkpoint(checkpoint)
        self.trained_on = checkpoint.get("zsad", {}).get("trained_on", [])
        self.cards = list(checkpoint.get("zsad", {}).get("calibration") or [])
        if self._trainer is not None and self._trainer.state.fn == "fit":
            # a loader with workers asks for its first indices before the Trainer says which epoch it is
            progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {})
            self._first_epoch = int(progress.get("current", {}).get("processed", 0))

    def save_weights(self, path: str | Path) -> Path:
        """Write learned parameters, finished text vectors and metadata as one safetensors file, and return its path."""
        checkpoint: dict[str, Any] = {"state_dict": self.state_dict()}
        self.on_save_checkpoint(checkpoint)
        made = checkpoint["zsad"] | {"hyper_parameters": dict(self.hparams)}
        tensors = {f"parameters.{name}": value.contiguous() for name, value in checkpoint["state_dict"].items()}
        tensors |= {
            f"zsad.{name}": made.pop(name).contiguous() for name in list(made) if isinstance(made[name], Tensor)
        }
        return write_whole(path, save(tensors, metadata={"zsad": json.dumps(made, default=str)}))

    def load_weights(self, path: str | Path) -> Self:
        """Read a file of :meth:`save_weights` into this model and return it.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If it was written by another method, for another backbone or with other options.
        """
        checkpoint = read_weights(path)
        self.on_load_checkpoint(checkpoint)
        try:
            self.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise CheckpointError(f"'{path}' does not fit {type(self).__name__}: {error}") from error
        return self

    @classmethod
    def from_weights(cls, path: str | Path, backbone: str | Clip | None = None, **options: Any) -> Self:
        """Return the model that wrote a file of :meth:`save_weights`.

        Args:
            path: The file.
            backbone: A loaded backbone to share; by default the one named in the file is loaded.
            **options: Constructor arguments in place of those in the file.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If it was written by another method or for another backbone.
        """
        return restore(cls, read_weights(path), backbone, options, str(path))

    # ---- exchange

    @classmethod
    def from_pretrained(
        cls,
        name_or_repo_or_folder: str | Path,
        *,
        revision: str | None = None,
        backbone: str | Clip | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> Self:
        """Return the method with learned parameters that somebody wrote with :meth:`save_pretrained` or published.

        Args:
            name_or_repo_or_folder: A folder, ``"anomalyclip/visa"`` (see :func:`zsad.list_weights`), or a repository of
                the Hugging Face Hub, ``"owner/name"`` or ``"hub:owner/name@revision"``.
            revision: Branch, tag or commit of a repository.
            backbone: In place of the one that the parameters belong to: the same model from a file, or loaded.
            token: For private repositories; by default the Hub's own settings.
            local_files_only: Open no connection.
            **options: Constructor arguments in place of those in the file.

        Raises:
            FileNotFoundError: It is not on this machine and cannot be fetched.
            CheckpointError: It was written by another method or for another backbone.
        """
        path = pretrained.locate(name_or_repo_or_folder, revision, token, local_files_only)
        return cls.from_weights(path, backbone, **options)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        licence: str | None = None,
        results: str | Path | None = None,
        command: str | None = None,
    ) -> Path:
        """Write ``adapters.safetensors``, ``config.json`` and a model card into a folder, and return it.

        Args:
            folder: Made if missing. No path of this machine is in what is written.
            licence: Of the parameters, as the Hub spells it: ``"cc-by-4.0"``.
            results: Folder of ``zsad benchmark`` for the card.
            command: Command line that trains the same parameters again, for the card.
        """
        return pretrained.save_folder(self, folder, licence, results, command=command)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        revision: str | None = None,
        commit_message: str | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        licence: str | None = None,
        results: str | Path | None = None,
        metrics: bool = True,
        command: str | None = None,
    ) -> str:
        """Upload what :meth:`save_pretrained` writes, and return the address of the commit.

        Args:
            repo_id: Owner and name; made if there is none.
            private: Whether a new repository is for its owner only.
            revision: Branch to write to.
            commit_message: Of the commit.
            token: By default the Hub's own settings.
            create_pr: Open a pull request instead of writing.
            licence: Of the parameters; there is no default, since only their owner can say.
            results: Folder of ``zsad benchmark``; nobody should have to guess how good they are.
            metrics: False uploads without results, and the card says so.
            command: Command line that trains the same parameters again.

        Raises:
            ValueError: Licence or results are missing.
            DownloadError: The Hub refuses it.
        """
        if licence is None:
            raise ValueError("push_to_hub needs licence=, for example 'cc-by-4.0': only the owner can say under which.")
        if results is None and metrics:
            raise ValueError(
                "push_to_hub needs results=, a folder of 'zsad benchmark', so that users know what to expect; "
                "metrics=False (--no-metrics) uploads without, and the card says so."
            )
        with TemporaryDirectory() as folder:
            written = pretrained.save_folder(self, folder, licence, results, repo_id, command)
            return pretrained.push(self, repo_id, written, private, revision, commit_message, token, create_pr)
