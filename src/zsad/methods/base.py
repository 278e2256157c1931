"""What all methods share: backbone, text cache, smoothing, evaluation, logging and checkpoints without the backbone."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from typing_extensions import Self

from zsad import __version__
from zsad.clip import Clip, load_clip
from zsad.clip.backbone import Position
from zsad.clip.loading import Activation, from_a_file
from zsad.functional.maps import smooth
from zsad.methods.evaluation import ClassRule, Evaluation
from zsad.methods.few_shot import FewShot
from zsad.methods.restoring import restore
from zsad.methods.tiled import predict_tiles
from zsad.metrics import Evaluator
from zsad.types import Batch, Context, ImageProtocol, Prediction
from zsad.weights.checkpoints import CheckpointError, CheckpointFiles, local_file, read_checkpoint, refuse_pickles

SCORES_DEPEND = "Scores depend on the other images of the folder."
"""What has to be said wherever scores of a transductive method are read."""


class Method(FewShot, ABC):
    """A zero-shot anomaly detector; a child writes :meth:`text_features` and :meth:`score`, a trained one :meth:`loss`.

    Args:
        backbone: Name for :func:`zsad.clip.load_clip`, or a loaded :class:`~zsad.clip.Clip` to share.
        image_size: Side in pixels of the model's input; None takes the published size with the published backbone and
            any other backbone's own size.
        sigma: Standard deviation of the Gaussian that smooths the finished map, in pixels of the input; 0 turns it off.
        position: How the position table is resized to the image size.
        activation: Asks by name for an activation that differs from the weights' own.
        metrics: Mode of the evaluator in validation and test: ``"binned"`` has a fixed memory and reports its error
            bound, ``"exact"`` keeps every score.
        shots: Normal reference images per class to draw from the data; 0 is zero-shot, unless a folder is given. What
            the method does with them: :class:`~zsad.methods.few_shot.FewShot`, unless it has a way of its own.
        references: Folder of normal images, ``<folder>/<class>/*`` or ``<folder>/*``.
        shot_seed: Decides which references are drawn.
    """

    published_backbone: ClassVar[str]
    published_protocol: ClassVar[ImageProtocol] = ImageProtocol()
    class_agnostic: ClassVar[bool] = False
    """True if the text does not depend on the class; it is then computed once, for the name ``"object"``."""
    transductive: ClassVar[bool] = False
    """True if the scores of an image depend on the other images of its folder (MuSc)."""
    score_range: tuple[float, float] | None = (0.0, 1.0)
    """Declared range of the anomaly maps, for the evaluator's bins; None if unbounded."""

    free_options: ClassVar[frozenset[str]] = frozenset(
        {"image_size", "sigma", "metrics", "shots", "references", "shot_seed"}
    )
    """Options that decide nothing about what is learned: given by hand, they replace a checkpoint's. A child names its
    own only; those of its parents stay."""
    word_options: ClassVar[frozenset[str]] = frozenset()
    """Options that are words for prompts and nothing else: a checkpoint may set them although they are text."""

    clip: Clip
    evaluator: Evaluator
    evaluation: Evaluation
    """Of the run under way; its ``images`` have the scores one by one."""

    def __init__(
        self,
        backbone: str | Clip,
        image_size: int | None = None,
        sigma: float = 0.0,
        position: Position = "bicubic",
        activation: Activation | None = None,
        metrics: Literal["binned", "exact"] = "binned",
        shots: int = 0,
        references: str | Path | None = None,
        shot_seed: int = 0,
    ) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"sigma must be >= 0 pixels, got {sigma}.")
        self.save_hyperparameters(ignore=["backbone"])
        self.clip = backbone if isinstance(backbone, Clip) else load_clip(backbone, position, activation)
        self.hparams["backbone"] = self.clip.name
        if image_size is None:
            model, published = (
                name.partition("/")[0].removesuffix("-quickgelu") for name in (self.clip.name, self.published_backbone)
            )
            image_size = self.published_protocol.size if model == published else self.clip.image_size
        self.protocol = replace(self.published_protocol, size=image_size)
        self.sigma = sigma
        self.use_references(shots, references, shot_seed)
        self.evaluator = Evaluator(mode=metrics, score_range=self.score_range)
        self.evaluation = Evaluation(self.evaluator)
        self.strict_loading = False  # the backbone is never in a checkpoint; see on_load_checkpoint
        self._text: dict[str, Tensor] = {}

    def declare_range(self, low: float | None = None, high: float | None = None) -> None:
        """Set :attr:`score_range` of this instance, where its options decide it; without numbers it is unbounded."""
        self.score_range = None if low is None or high is None else (low, high)
        self.evaluator = Evaluator(mode=self.hparams["metrics"], score_range=self.score_range)
        self.evaluation = Evaluation(self.evaluator)

    # ---- what a child writes

    @abstractmethod
    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return the text vectors of each class, (classes, k, dim); row 0 normal, row 1 anomalous unless k > 2."""

    @abstractmethod
    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return maps at image size, before smoothing, and scores.

        Args:
            image: Normalised images, (batch, 3, height, width).
            text: Text vectors of each image's class, (batch, k, dim).
            context: Class names and paths of the images.
        """

    def class_rule(self) -> ClassRule | None:
        """Return what replaces image scores once a class's whole test set is known; None leaves them as they are."""
        return None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the objective as ``loss`` and whatever else should be logged; trained methods only."""
        raise TypeError(f"{type(self).__name__} is training-free: there is nothing to fit; use test, predict or score.")

    @classmethod
    def learns(cls) -> bool:
        """Whether there is something to fit."""
        return cls.loss is not Method.loss

    # ---- prediction

    def text(self, class_names: Sequence[str]) -> Tensor:
        """Return the cached text vectors of each image's class, (batch, k, dim); each class is encoded once."""
        names = ["object"] * len(class_names) if self.class_agnostic else list(class_names)
        missing = [name for name in dict.fromkeys(names) if name not in self._text]
        if missing:
            with torch.no_grad():
                self._text.update(zip(missing, self.text_features(missing), strict=True))
        return torch.stack([self._text[name] for name in names])

    def p_value_obstacle(self, class_name: str) -> str | None:
        """Return why the scores of a class have no p-value, None if nothing stands against one."""
        return None

    def export_obstacle(self) -> str | None:
        """Return why there is no graph of this method for 'zsad export', and what can be done; None if there is one."""
        return None

    def move(self, device: torch.device) -> None:
        """Go to a device with the text vectors, which are then not computed again."""
        text = {name: vectors.to(device) for name, vectors in self._text.items()}
        self.to(device)._text.update(text)

    def forget_text(self) -> None:
        """Drop the text cache; happens by itself when weights or device change and at every start of a run."""
        self._text.clear()

    def forward(
        self, image: Tensor, class_names: Sequence[str], image_paths: Sequence[str] | None = None
    ) -> Prediction:
        """Return anomaly maps (batch, height, width) and scores (batch,).

        Args:
            image: Images normalised as :attr:`protocol` says, (batch, 3, height, width).
            class_names: Class of each image, in the user's own words.
            image_paths: Path of each image, for methods with per-image random numbers; positions by default.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"Expected images of shape (batch, 3, height, width), got {tuple(image.shape)}.")
        if len(class_names) != len(image):
            raise ValueError(
                f"Expected one class name per image, got {len(class_names)} names for {len(image)} images."
            )
        paths = [str(i) for i in range(len(image))] if image_paths is None else list(image_paths)
        return self.assess(image, self.text(class_names), Context(list(class_names), paths))

    def assess(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return what :meth:`score` says, averaged with references, if there are any, and smoothed."""
        prediction = self.with_references(self.score(image, text, context), image, context.class_names)
        return prediction._replace(anomaly_map=smooth(prediction.anomaly_map, self.sigma))

    # ---- Lightning

    def setup(self, stage: str) -> None:
        """Let the Trainer read and write checkpoints through :class:`~zsad.weights.checkpoints.CheckpointFiles`.

        Raises:
            CheckpointError: If it is to start from a URL or a folder.
            FileNotFoundError: If it is to start from a file that is not there.
        """
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:  # somebody's own stays
            strategy.checkpoint_io = CheckpointFiles()
        if self.trainer.ckpt_path is not None:
            local_file(self.trainer.ckpt_path)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log each loss and return the objective."""
        losses = self.loss(batch)
        for name, value in losses.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=len(batch["image"]))
        return losses["loss"]

    def configure_optimizers(self) -> Any:
        """Return the optimiser; children that train replace it."""
        raise TypeError(f"{type(self).__name__} is training-free: there is nothing to fit; use test, predict or score.")

    def _start(self) -> None:
        self.forget_text()
        self.evaluation = Evaluation(self.evaluator, self.class_rule())
        self.evaluation.reset()

    def on_validation_epoch_start(self) -> None:
        """Forget cached text and earlier results."""
        self._start()

    on_test_epoch_start = on_validation_epoch_start

    def on_predict_epoch_start(self) -> None:
        """Forget cached text."""
        self.forget_text()

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Return the prediction of a batch."""
        if "tiles" in batch:
            return predict_tiles(self, batch, getattr(getattr(self._trainer, "datamodule", None), "batch_size", 8))
        self.refuse_references(batch["image"], batch["image_path"])
        return self(batch["image"], batch["class_name"], batch["image_path"])

    def _evaluate(self, batch: Batch) -> None:
        self.evaluation.add(batch, self.predict_step(batch, 0))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the evaluator."""
        self._evaluate(batch)

    test_step = validation_step

    def _log_results(self, prefix: str) -> None:
        result = self.evaluation.compute()
        self.log_dict({f"{prefix}{metric}": value for metric, value in result.mean.items()}, prog_bar=True)
        if len(result.per_class) > 1:
            for class_name, values in result.per_class.items():
                self.log_dict({f"{prefix}{metric}/{class_name}": value for metric, value in values.items()})

    def on_validation_epoch_end(self) -> None:
        """Log metrics as ``val/<metric>``, mean and per class."""
        self._log_results("val/")

    def on_test_epoch_end(self) -> None:
        """Log metrics as ``test/<metric>``, mean and per class."""
        self._log_results("test/")

    # ---- state

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.forget_text()  # device or dtype is about to change
        return super()._apply(fn, recurse)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the learned parameters only: the backbone is named, not stored."""
        prefix = kwargs.get("prefix", "")
        state = super().state_dict(*args, **kwargs)
        for key in [key for key in state if key.startswith(f"{prefix}clip.")]:
            del state[key]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load learned parameters; the backbone's are not expected. Other missing or unknown keys raise if strict.

        Raises:
            CheckpointError: If strict and a key is missing or unknown.
        """
        self.forget_text()
        if strict:
            self._check_keys(state_dict)
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        result.missing_keys[:] = [key for key in result.missing_keys if not key.startswith("clip.")]
        return result

    def _check_keys(self, state_dict: Mapping[str, Any]) -> None:
        expected, found = set(self.state_dict()), set(state_dict)
        if expected != found:
            raise CheckpointError(
                f"The checkpoint does not fit {type(self).__name__}: missing {sorted(expected - found)}, "
                f"unknown {sorted(found - expected)}. It was probably written by another method or other options."
            )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | os.PathLike[str] | IO[bytes],
        map_location: Any = "cpu",
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return the method that a checkpoint or a file of ``save_weights`` holds; no code in it is run.

        Args:
            checkpoint_path: The file, or one that is open.
            map_location: Where the parameters go.
            hparams_file: Not supported; give options by name.
            strict: Not supported: parameters must fit.
            weights_only: Always True.
            **kwargs: Constructor options in place of the checkpoint's: what touches paths, network or other programs is
                never taken from a file, what decides what was learned cannot be replaced.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: It is a URL, cannot be read without running code, or does not fit.
            ValueError: Something unsupported is asked for.
        """
        refuse_pickles(weights_only)
        if hparams_file is not None or strict is False:
            raise ValueError("load_from_checkpoint takes no hparams_file and no strict=False: give options by name.")
        saved = read_checkpoint(checkpoint_path, map_location)
        return restore(cls, saved, kwargs.pop("backbone", None), kwargs, str(checkpoint_path))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what identifies the model: method, backbone, version."""
        if "hyper_parameters" in checkpoint:  # a path is no plain value
            stored = checkpoint["hyper_parameters"].items()
            checkpoint["hyper_parameters"] = {key: str(one) if isinstance(one, Path) else one for key, one in stored}
        checkpoint["zsad"] = {"method": type(self).__name__, "backbone": self.clip.name, "version": __version__}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another method, another backbone or with other parameters.

        Raises:
            CheckpointError: With what differs.
        """
        made = checkpoint.get("zsad", {})
        for what, mine in (("method", type(self).__name__), ("backbone", self.clip.name)):
            if made.get(what, mine) != mine and not (what == "backbone" and from_a_file(mine, made[what])):
                raise CheckpointError(f"The checkpoint was written for {what} '{made[what]}', this model has '{mine}'.")
        self._check_keys(checkpoint["state_dict"])
