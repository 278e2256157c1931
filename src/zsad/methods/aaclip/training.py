"""AA-CLIP's two fits: losses, augmentation, optimiser, and which stage is finished."""

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from zsad.methods.aaclip.adapters import (
    SegmentationTerms,
    disentangle,
    probabilities,
    segmentation_terms,
    unit,
)
from zsad.methods.aaclip.features import Features
from zsad.methods.aaclip.options import STAGES, Domain
from zsad.training.augment import ColourJitter, move_batch
from zsad.types import Batch
from zsad.weights.checkpoints import CheckpointError


class Training(Features):
    """The objective of each stage and what surrounds it."""

    stage1_levels: Literal["last", "sum", "mean"]
    stage1_cls_loss: bool
    gamma: float
    cls_scale: float
    augment_p: float
    rotation: float
    shift: float
    lr: float
    lr_factor: float
    milestones: tuple[int, ...]
    adam: dict[str, Any]
    domain: Domain
    _given: tuple[Domain | None, str | None]
    _other_words: bool

    @property
    def why_not_cacheable(self) -> str:
        """Reason why features may not be kept between epochs; empty if they may."""
        if self.stage == "image":
            return "stage='image' trains the image tower from its first blocks on"
        if self.vv_axis == "batch":
            return "vv_axis='batch' makes an image's features depend on its batch; vv_axis='token' does not"
        if self.augment_p > 0:
            return f"augmentation changes the images each epoch; augment_p={self.augment_p}, 0 turns it off"
        return ""

    def _why_not_cache(self, loader: DataLoader[Any]) -> str | None:
        return self.why_not_cacheable or super()._why_not_cache(loader)

    def published_fit(self, source: str) -> tuple[int, dict[str, Any]]:
        """Return epochs and data options: the second stage jitters colours and is reported after 15 of its epochs."""
        return (15, {"augment": ColourJitter()}) if self.stage == "image" else (self.published_epochs, {})

    def cache_settings(self) -> dict[str, Any]:
        """Return the options that decide :meth:`frozen_features`."""
        return {"levels": self._loss_levels, "vv_blocks": self.vv_blocks, "cls": self.stage1_cls_loss}

    def frozen_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return what the first stage needs of the frozen image tower: ``patches_<level>`` and, if used, ``cls``.

        Args:
            image: Normalised images, (batch, 3, height, width).

        Raises:
            TypeError: In the second stage, which has nothing frozen worth keeping.
        """
        if self.stage == "image":
            raise TypeError("stage='image' adapts the image tower from its first block: there are no frozen features.")
        patches, cls = self.stage1_features(image, self._loss_levels)
        features = {f"patches_{level}": value for level, value in patches.items()}
        return {**features, "cls": cls} if self.stage1_cls_loss else features

    @property
    def _loss_levels(self) -> tuple[int, ...]:
        return self.levels[-1:] if self.stage1_levels == "last" else self.levels

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the objective of the stage as ``loss``, and its parts.

        Args:
            batch: With ``gt_mask`` and, where an image-level term counts, ``gt_label``.

        Raises:
            ValueError: If masks or labels are missing.
        """
        needs_labels = self.stage == "image" or self.stage1_cls_loss
        for key, needed in (("gt_mask", True), ("gt_label", needs_labels)):
            if needed and key not in batch:
                raise ValueError(f"AACLIP stage='{self.stage}' needs '{key}' of every image, but the data have none.")
        return self._text_loss(batch) if self.stage == "text" else self._image_loss(batch)

    def _text_loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.features_of(batch)
        names = list(dict.fromkeys(batch["class_name"]))
        text = self.anchors(names)[[names.index(name) for name in batch["class_name"]]]
        patches = {level: features[f"patches_{level}"] for level in self._loss_levels}
        terms = self.segmentation(patches, text, batch["gt_mask"])
        segmentation = torch.stack([one.total for one in terms.values()])
        parts = {
            "segmentation": segmentation.mean() if self.stage1_levels == "mean" else segmentation.sum(),
            "disentangle": disentangle(text),
        }
        loss = parts["segmentation"] + self.gamma * parts["disentangle"]
        if self.stage1_cls_loss:
            parts["cross_entropy"] = self.cross_entropy(unit(features["cls"]), text, batch["gt_label"])
            loss = loss + parts["cross_entropy"]
        return {"loss": loss, **parts}

    def _image_loss(self, batch: Batch) -> dict[str, Tensor]:
        text = self.text_features(batch["class_name"])
        patches, detection = self.image_features(batch["image"])
        terms = self.segmentation(patches, text, batch["gt_mask"])
        parts = {
            "segmentation": torch.stack([one.total for one in terms.values()]).sum(),
            "cross_entropy": self.cross_entropy(detection, text, batch["gt_label"]),
        }
        return {"loss": parts["segmentation"] + parts["cross_entropy"], **parts}

    def segmentation(self, patches: Mapping[int, Tensor], text: Tensor, mask: Tensor) -> dict[int, SegmentationTerms]:
        """Return the loss terms of each level.

        Args:
            patches: Level -> patch features at their own length, (batch, patches, dim).
            text: Anchors of each image's class, (batch, 2, dim).
            mask: (batch, height, width) bool.
        """
        grid, size = self.clip.grid(mask), (mask.shape[-2], mask.shape[-1])
        return {
            level: segmentation_terms(probabilities(value, text, grid, size), mask) for level, value in patches.items()
        }

    def cross_entropy(self, feature: Tensor, text: Tensor, label: Tensor) -> Tensor:
        """Return the two-class cross-entropy of image features (batch, dim) with anchors; no temperature by default."""
        return F.cross_entropy(self.cls_scale * torch.einsum("bd,bsd->bs", feature.float(), text.float()), label)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment, then do what :meth:`TrainedMethod.training_step` does."""
        return super().training_step(self.augmented(batch, self.current_epoch), batch_idx)

    def augmented(self, batch: Batch, epoch: int) -> Batch:
        """Return a batch with images and masks moved together, by seed, epoch and path."""
        if self.augment_p == 0 or "image" not in batch or "gt_mask" not in batch:
            return batch
        keys = [f"{self.seed}/{epoch}/{path}" for path in batch["image_path"]]
        options = {"p": self.augment_p, "rotation": self.rotation, "shift": self.shift}
        image, mask = move_batch(batch["image"], batch["gt_mask"], keys, **options)
        return {**batch, "image": image, "gt_mask": mask}

    def configure_optimizers(self) -> Any:
        """Return Adam over the stage's adapters and, if there are milestones, a schedule in optimiser steps."""
        trained = self.text_adapter if self.stage == "text" else self.image_adapter
        optimizer = torch.optim.Adam(trained.parameters(), lr=self.lr, **self.adam)
        if not self.milestones:
            return optimizer
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(self.milestones), self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def setup(self, stage: str) -> None:
        """Take domain and benchmark from the data module where they were not given."""
        super().setup(stage)
        datamodule = getattr(self._trainer, "datamodule", None)
        if datamodule is not None:
            domain, benchmark = self._given
            self.domain = domain or cast(Domain, getattr(datamodule, "domain", "industrial"))
            self.benchmark = benchmark or getattr(datamodule, "name", None)
            self.forget_text()

    def on_fit_start(self) -> None:
        """Freeze the anchors before the second stage: those of the training classes and of all that have a description.

        Raises:
            CheckpointError: If the first stage is missing.
            ValueError: If ``templates`` or ``abnormal_states`` are given, which a checkpoint does not keep.
        """
        if self._other_words:
            raise ValueError(
                "templates and abnormal_states are for evaluation; to train with other words give prompts=."
            )
        if self.stage == "text":
            self._frozen = {}
            self.finished.fill_(False)  # an image tower that was adapted to other anchors is worth nothing
        elif not self._text_done:
            raise CheckpointError(
                "stage='image' starts from a finished first stage: give text_checkpoint='....ckpt' of a fit with "
                "stage='text' (or the authors' text_adapter.pth), or ask for anchors='plain'."
            )
        super().on_fit_start()
        if self.stage == "image":
            datamodule = getattr(self.trainer, "datamodule", None)
            self.freeze_anchors([*getattr(datamodule, "class_names", ()), *self.prompts.class_aliases])

    def on_train_epoch_end(self) -> None:
        """Note which stage is finished: the first at its last epoch, the second after any, since each is usable."""
        super().on_train_epoch_end()
        trainer = self.trainer
        last = trainer.max_epochs not in (None, -1) and self.current_epoch + 1 >= trainer.max_epochs
        if self.stage == "image" or last or trainer.should_stop:
            self.finished[STAGES.index(self.stage)] = True

    def on_train_end(self) -> None:
        """Note that the stage is finished, also where a number of steps ended it."""
        super().on_train_end()
        self.finished[STAGES.index(self.stage)] = True
