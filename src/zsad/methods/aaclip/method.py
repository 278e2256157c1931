"""AA-CLIP: residual adapters in both towers of CLIP, trained in two stages: text first, then image."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import Self

from zsad.clip import Clip
from zsad.clip.blocks import TwoPath, adapters, vv_tower
from zsad.clip.loading import Activation
from zsad.methods.aaclip.adapters import (
    ImageAdapter,
    SegmentationTerms,
    StoredAdapter,
    TextAdapter,
    adapted_blocks,
    disentangle,
    level_map,
    probabilities,
    read_adapter,
    segmentation_terms,
    unit,
    with_relu,
    xavier,
)
from zsad.methods.base import CheckpointError, Method
from zsad.methods.trained import TrainedMethod
from zsad.prompts import load_prompts
from zsad.training.augment import ColourJitter, move_batch
from zsad.types import Batch, Context, ImageProtocol, Prediction

Domain = Literal["industrial", "medical"]
Stage = Literal["text", "image"]

_STAGES: tuple[Stage, Stage] = ("text", "image")
_BLUR: dict[Domain, tuple[int, float]] = {"industrial": (7, 1.0), "medical": (9, 1.5)}
_SETTINGS: dict[Stage, tuple[float, tuple[int, ...]]] = {"text": (1e-5, ()), "image": (5e-4, (16000, 32000))}


class _Variant(TypedDict):
    activation: Activation
    vv_axis: Literal["batch", "token"]
    stage1_levels: Literal["last", "sum", "mean"]
    stage1_cls_loss: bool


_VARIANTS: dict[str, _Variant] = {
    "released": {"activation": "gelu", "vv_axis": "batch", "stage1_levels": "last", "stage1_cls_loss": False},
    "paper": {"activation": "quick_gelu", "vv_axis": "token", "stage1_levels": "sum", "stage1_cls_loss": True},
}


class AACLIP(TrainedMethod):
    """Locate and score anomalies with anchors and features that small residual adapters have made anomaly-aware.

    Training takes two fits: ``stage="text"`` learns text anchors that tell normal from anomalous, then
    ``stage="image"`` adapts the image tower to them. The first stage's anchors travel in the second stage's checkpoint,
    so inference needs the text tower only for classes that are new to it. The map is a sum over levels without softmax
    and unbounded; the score is (cosine with the anomalous anchor + 1) / 2, roughly.

    Args:
        backbone: Backbone name or a loaded one.
        stage: What a fit trains; prediction does not depend on it.
        text_checkpoint: First stage to start from: a checkpoint of this class or the authors' ``text_adapter.pth``.
        image_checkpoint: Second stage to start from: a checkpoint of this class or the authors'
            ``image_adapter_15.pth``.
        variant: ``"released"`` is the code that produced the published numbers; ``"paper"`` takes ``activation``,
            ``vv_axis``, ``stage1_levels`` and ``stage1_cls_loss`` as the text has them. Each may be given by itself.
        domain: Decides the blur; None takes the data module's when a Trainer runs, else ``"industrial"``.
        benchmark: Whose class descriptions the prompts use, e.g. ``"visa"``; None takes the data module's. A class
            without one stands for itself.
        anchors: ``"plain"`` uses CLIP's own text tower and projection and needs no first stage (the released code's
            ``text_epochs = 0``).
        levels: Image blocks that are read, increasing; None for the ends of the depth's four quarters (6, 12, 18, 24).
        text_adapters: Text blocks with an adapter, counted from the first; None for a quarter of the depth (3 of 12).
        image_adapters: Image blocks with an adapter; None for a quarter of the depth (6 of 24).
        lambda_text: Share of the adapter in each adapted text block; beyond 0.3 the paper sees it break.
        lambda_image: Share of the adapter in each adapted image block.
        relu: Whether LeakyReLU follows the image projections.
        activation: Activation of the backbone, asked for by name; None takes the variant's with the published backbone
            (``"released"``: exact GELU, not what the weights were trained with) and the weights' own otherwise.
        vv_blocks: Last image blocks with V-V attention in the first stage; None for all from the first level on (19 of
            24; the released code's ``surgery_until_layer`` is one more).
        vv_axis: Whether a token attends to the tokens of its image or, as the released code does by accident, to those
            at its position in the other images of the batch.
        stage1_levels: Which levels' segmentation losses count in the first stage.
        stage1_cls_loss: Adds a cross-entropy of the class token in the first stage.
        gamma: Weight of the disentangling loss.
        cls_scale: Factor on the cosines of the image-level cross-entropy.
        prompts: Packaged prompt list or YAML file.
        templates: Templates in place of the list's, to evaluate with (supplement, table 6). To train with other words,
            give a list of your own as ``prompts``.
        abnormal_states: Anomalous states in place of the list's, likewise (supplement, table 7).
        blur: Width and standard deviation, in patches, of the map's blur; None takes the domain's, (7, 1.0) or
            (9, 1.5).
        lr: Learning rate of Adam; None for 1e-5 in the first and 5e-4 in the second stage.
        betas: Adam's decay rates.
        eps: Adam's denominator offset.
        weight_decay: Adam's L2 penalty.
        milestones: Optimiser steps at which the rate is multiplied by ``lr_factor``; None for none in the first and
            (16000, 32000) in the second stage.
        lr_factor: See ``milestones``.
        augment_p: Probability of each of rotation, shift and the two flips while fitting; 0 for none. Colour jitter is
            the data module's: ``augment: zsad.training.augment.ColourJitter``, second stage only.
        rotation: Greatest rotation in degrees.
        shift: Greatest shift as a share of width and height.
        **kwargs: Options of :class:`~zsad.methods.trained.TrainedMethod`; ``seed`` also decides the augmentation. The
            token cache serves ``stage="text"`` with ``vv_axis="token"`` and ``augment_p=0``.

    Raises:
        ValueError: If an option is unknown or does not fit the backbone.
        CheckpointError: If a stage's checkpoint was made with other options or is unfinished.

    References:
        Ma et al., "AA-CLIP", CVPR 2025, arXiv 2503.06661, and its released code, which wins where they differ.
    """

    published_backbone = "ViT-L-14-336/openai"
    published_protocol = ImageProtocol(size=518, mask_resize="nearest")
    score_range = None
    published_epochs = 20
    """Of the second stage, of which the 15th is reported; 5 in the first."""
    published_batch_size = 2
    """Of the second stage; 16 in the first."""

    training_stages: ClassVar[tuple[dict[str, str], ...]] = ({"stage": "text"}, {"stage": "image"})
    """Options of the fits that make a trained model, in order."""
    previous_stage: ClassVar[str] = "text_checkpoint"
    """Argument that takes what the fit before has made."""

    finished: Tensor

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        stage: Stage = "text",
        text_checkpoint: str | Path | None = None,
        image_checkpoint: str | Path | None = None,
        variant: Literal["released", "paper"] = "released",
        domain: Domain | None = None,
        benchmark: str | None = None,
        anchors: Literal["adapted", "plain"] = "adapted",
        levels: Sequence[int] | None = None,
        text_adapters: int | None = None,
        image_adapters: int | None = None,
        lambda_text: float = 0.1,
        lambda_image: float = 0.1,
        relu: bool | None = None,
        activation: Activation | None = None,
        vv_blocks: int | None = None,
        vv_axis: Literal["batch", "token"] | None = None,
        stage1_levels: Literal["last", "sum", "mean"] | None = None,
        stage1_cls_loss: bool | None = None,
        gamma: float = 0.1,
        cls_scale: float = 1.0,
        prompts: str = "aa_clip",
        templates: Sequence[str] | None = None,
        abnormal_states: Sequence[str] | None = None,
        blur: tuple[int, float] | None = None,
        lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        milestones: Sequence[int] | None = None,
        lr_factor: float = 0.5,
        augment_p: float = 0.5,
        rotation: float = 30.0,
        shift: float = 0.15,
        **kwargs: Any,
    ) -> None:
        _one_of("stage", stage, _STAGES)
        _one_of("variant", variant, _VARIANTS)
        _one_of("domain", domain, (None, *_BLUR))
        _one_of("anchors", anchors, ("adapted", "plain"))
        choices = _VARIANTS[variant]
        if activation is None and backbone == self.published_backbone:
            activation = choices["activation"]
        super().__init__(backbone, activation=activation, **kwargs)

        self.hparams["activation"] = activation
        stored = {"text": _read(text_checkpoint, "text_adapter"), "image": _read(image_checkpoint, "image_adapter")}
        clip = self.clip
        self.stage: Stage = stage
        self.domain: Domain = domain or "industrial"
        self.benchmark = benchmark
        self._given = (domain, benchmark)
        self.plain_anchors = anchors == "plain"
        self.levels = _levels(clip.depth) if levels is None else tuple(levels)
        self.lambda_text = lambda_text
        self.lambda_image = lambda_image
        self.vv_blocks = clip.depth - self.levels[0] + 1 if vv_blocks is None else vv_blocks
        self.vv_axis = vv_axis or choices["vv_axis"]
        self.stage1_levels = stage1_levels or choices["stage1_levels"]
        self.stage1_cls_loss = choices["stage1_cls_loss"] if stage1_cls_loss is None else stage1_cls_loss
        self.gamma = gamma
        self.cls_scale = cls_scale
        self.blur = blur
        self.augment_p = augment_p
        self.rotation = rotation
        self.shift = shift
        default_lr, default_milestones = _SETTINGS[stage]
        self.lr = default_lr if lr is None else lr
        self.milestones = default_milestones if milestones is None else tuple(milestones)
        self.adam: dict[str, Any] = {"betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        self.lr_factor = lr_factor

        self.prompts = load_prompts(prompts)
        states = {**self.prompts.states, **({} if abnormal_states is None else {"anomalous": abnormal_states})}
        self.prompts = replace(self.prompts, states=states, templates=templates or self.prompts.templates)

        text_blocks = _adapted(stored["text"], text_adapters, max(1, clip.text_depth // 4))
        image_blocks = _adapted(stored["image"], image_adapters, max(1, clip.depth // 4))
        if relu is None:
            relu = stored["image"] is not None and with_relu(stored["image"].state)
        self._check(text_blocks, image_blocks)
        self.text_adapter = TextAdapter(text_blocks, clip.text_width, clip.dim)
        self.image_adapter = ImageAdapter(image_blocks, len(self.levels), clip.width, clip.dim, relu)
        xavier(self.text_adapter, self.seed)
        xavier(self.image_adapter, self.seed)
        self.text_adapter.requires_grad_(stage == "text")
        self.image_adapter.requires_grad_(stage == "image")
        self.register_buffer("finished", torch.zeros(2, dtype=torch.bool))
        self._frozen: dict[str, Tensor] = {}  # hash of a class's prompts -> its anchors under finished text adapters
        self._arriving: dict[str, Tensor] = {}  # those of a checkpoint whose parameters are still to come
        for which in _STAGES:
            self._take(which, stored[which])
        if stage == "text":
            self.published_epochs, self.published_batch_size = 5, 16  # type: ignore[misc]  # class-wide in other methods
        # files matter once; what follows from them is kept, so that a checkpoint rebuilds itself without them
        self.hparams.update(text_adapters=text_blocks, image_adapters=image_blocks, relu=relu, levels=list(self.levels))
        self.hparams.update(text_checkpoint=None, image_checkpoint=None)
        # how to evaluate is not what was learned, and what a checkpoint keeps, Lightning's command line insists on
        for name in ("domain", "benchmark", "blur", "templates", "abnormal_states"):
            self.hparams.pop(name, None)
        self._other_words = templates is not None or abnormal_states is not None

    def _check(self, text_blocks: int, image_blocks: int) -> None:
        clip = self.clip
        increasing = bool(self.levels) and list(self.levels) == sorted(set(self.levels))
        if not increasing or not 1 <= self.levels[0] <= self.levels[-1] <= clip.depth:
            raise ValueError(
                f"levels must be increasing block numbers in 1..{clip.depth} for '{clip.name}', got {self.levels}."
            )
        ranges: list[tuple[str, float, float]] = [
            ("text_adapters", text_blocks, clip.text_depth),
            ("image_adapters", image_blocks, clip.depth),
            ("vv_blocks", self.vv_blocks, clip.depth),
            ("lambda_text", self.lambda_text, 1),
            ("lambda_image", self.lambda_image, 1),
            ("augment_p", self.augment_p, 1),
            ("shift", self.shift, 1),
        ]
        for name, value, high in ranges:
            if not 0 <= value <= high:
                raise ValueError(f"{name} must be in 0..{high} for '{clip.name}', got {value}.")
        if self.gamma < 0 or self.cls_scale <= 0:
            raise ValueError(f"gamma must be >= 0 and cls_scale > 0, got {self.gamma} and {self.cls_scale}.")
        _one_of("vv_axis", self.vv_axis, ("batch", "token"))
        _one_of("stage1_levels", self.stage1_levels, ("last", "sum", "mean"))
        if self.blur is not None and (self.blur[0] < 1 or self.blur[0] % 2 == 0 or self.blur[1] <= 0):
            raise ValueError(f"blur must be (odd width, standard deviation > 0) in patches, got {self.blur}.")
        if self.stage == "text" and self.plain_anchors:
            raise ValueError("anchors='plain' leaves nothing to train in stage='text'; use stage='image'.")

    # ---- text

    def describe(self, class_name: str) -> str:
        """Return the class's key in the prompt list, ``"<benchmark>/<class>"``, or the name itself if it has none."""
        key = f"{self.benchmark}/{class_name}"
        return key if key in self.prompts.class_aliases else class_name

    def class_prompts(self, class_name: str) -> tuple[list[str], list[str]]:
        """Return the normal and the anomalous prompts of a class; ``"visa/pcb1"`` names one of a certain benchmark."""
        return self.prompts.compose(self.describe(class_name), "readable")

    def prompt_embeddings(self, texts: Sequence[str], chunk: int = 256) -> Tensor:
        """Return adapted embeddings (texts, dim), not normalised, with gradient to the text adapters.

        Args:
            texts: Prompts.
            chunk: Texts per forward pass.
        """
        if self.plain_anchors:
            return self.clip.encode_prompts(texts, chunk)
        ids = self.clip.tokenize(texts)
        length = int(ids.argmax(dim=-1).max()) + 1  # causal tower: what stands after the end has no influence
        *blocks, projection = self.text_adapter
        step = adapters(blocks, self.lambda_text, self.clip.causal_mask[:length, :length])
        parts = [self.clip.run_text(self.clip.embed_text(part), part, step) for part in ids[:, :length].split(chunk)]
        return projection(torch.cat(parts))

    def anchors(self, class_names: Sequence[str]) -> Tensor:
        """Return unit-length anchors (classes, 2, dim), row 0 normal, row 1 anomalous, computed now, with gradient."""
        sides = [side for name in class_names for side in self.class_prompts(name)]
        embeddings = self.prompt_embeddings([text for side in sides for text in side])
        rows = [unit(unit(part).mean(dim=0)) for part in embeddings.split([len(side) for side in sides])]
        return torch.stack(rows).unflatten(0, (-1, 2))

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return the anchors of each class without gradient; the text tower runs only for those not yet frozen."""
        keys = {name: self._key(name) for name in class_names}
        new = list({key: name for name, key in keys.items() if key not in self._frozen}.values())
        known = dict(self._frozen)
        if new:
            with torch.inference_mode(False), torch.no_grad():  # kept beyond this call, and needed in training
                made = self.anchors(new)
            known.update({keys[name]: row for name, row in zip(new, made, strict=True)})
            if self._text_done:
                self._frozen = known
        return torch.stack([known[keys[name]].to(self.device) for name in class_names])

    def freeze_anchors(self, class_names: Sequence[str]) -> None:
        """Compute the anchors of these classes once and for all; they travel in the checkpoint.

        Raises:
            CheckpointError: If the first stage is not finished.
        """
        if not self._text_done:
            raise CheckpointError("Anchors can be frozen after the first stage only: the text adapters are untrained.")
        self.text_features(list(class_names))

    @property
    def frozen_classes(self) -> int:
        """Number of distinct classes whose anchors need no text tower."""
        return len(self._frozen)

    @property
    def _text_done(self) -> bool:
        return self.stage == "image" and (self.plain_anchors or bool(self.finished[0]))

    def _key(self, class_name: str) -> str:
        normal, anomalous = self.class_prompts(class_name)
        return hashlib.sha256("\n".join([*normal, "", *anomalous]).encode()).hexdigest()

    # ---- images

    def image_features(self, image: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """Return adapted features of the second stage.

        Args:
            image: Normalised images, (batch, 3, height, width).

        Returns:
            Level -> unit-length patch features (batch, patches, dim), and the detection feature (batch, dim): the mean
            of unit-length tokens of the last block, itself shorter than 1. The class token is not used.
        """
        step = adapters(list(self.image_adapter.layer_adapters), self.lambda_image)
        x, kept = self.clip.run_image(self.clip.embed_image(image), step, self.levels)
        patches = {
            level: unit(project(self.clip.ln_post(kept[level][:, 1:])))
            for level, project in zip(self.levels, self.image_adapter.seg_proj, strict=True)
        }
        return patches, unit(self.image_adapter.det_proj(self.clip.ln_post(x[:, 1:]))).mean(dim=1)

    @torch.no_grad()
    def stage1_features(self, image: Tensor, levels: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """Return what the first stage compares with the anchors; no adapter takes part.

        Args:
            image: Normalised images, (batch, 3, height, width).
            levels: Image blocks to read.

        Returns:
            Level -> unit patch features of the V-V tower plus the unit class embedding of the ordinary tower, not
            normalised again, (batch, patches, dim); and the class embedding before normalisation, (batch, dim).
        """
        step = vv_tower(self.clip.depth - self.vv_blocks + 1, self.vv_axis)
        last, kept = self.clip.run_image(self.clip.embed_image(image), step, levels)
        main = last.main if isinstance(last, TwoPath) else last
        cls = self.clip.project(self.clip.ln_post(main[:, 0]))
        patches = {}
        for level, state in kept.items():
            side = state.side[0] if isinstance(state, TwoPath) else state
            patches[level] = unit(self.clip.project(self.clip.ln_post(side[:, 1:]))) + unit(cls)[:, None]
        return patches, cls

    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the sum of the levels' maps, and (<detection feature, anomalous anchor> + 1) / 2."""
        patches, detection = self.image_features(image)
        grid, size = self.clip.grid(image), (image.shape[-2], image.shape[-1])
        blur = self.blur or _BLUR[self.domain]
        maps = [level_map(patches[level], text, grid, size, blur) for level in self.levels]
        return Prediction(
            anomaly_map=torch.stack(maps).sum(dim=0),
            pred_score=((detection * text[:, 1].float()).sum(dim=-1) + 1) / 2,
        )

    def forward(
        self, image: Tensor, class_names: Sequence[str], image_paths: Sequence[str] | None = None
    ) -> Prediction:
        """Return anomaly maps (batch, height, width) and scores (batch,); see :meth:`Method.forward`.

        Raises:
            CheckpointError: If a stage is unfinished: the scores of random matrices would look like scores. (A model
                that has seen no training at all only warns.)
        """
        fitting = self._trainer is not None and self._trainer.state.fn == "fit"
        done = {"text": self.plain_anchors or bool(self.finished[0]), "image": bool(self.finished[1])}
        missing = [which for which, finished in done.items() if not finished]
        if missing and not fitting and (self.trained_on or self.finished.any()):
            raise CheckpointError(
                f"This AACLIP has not finished its stage '{missing[0]}': those adapters are random or half-trained. "
                f"Fit stage='text', then stage='image' with text_checkpoint=..., and load the latter's checkpoint."
            )
        with torch.no_grad():  # training goes through loss
            return super().forward(image, class_names, image_paths)

    # ---- training

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
        features = batch["features"] if "features" in batch else self.frozen_features(batch["image"])
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

    # ---- Lightning

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
            self.finished[_STAGES.index(self.stage)] = True

    def on_train_end(self) -> None:
        """Note that the stage is finished, also where a number of steps ended it."""
        super().on_train_end()
        self.finished[_STAGES.index(self.stage)] = True

    # ---- state

    @classmethod
    def from_author_checkpoint(
        cls, text_file: str | Path, image_file: str | Path, backbone: str | Clip = published_backbone, **options: Any
    ) -> Self:
        """Return a model with weights that the authors' released training wrote.

        The files do not say which lambda they were trained with: give ``lambda_text`` and ``lambda_image`` if not 0.1.

        Args:
            text_file: ``text_adapter.pth``.
            image_file: ``image_adapter_<epoch>.pth``; the published numbers are epoch 15's.
            backbone: Backbone name or a loaded one.
            **options: Other arguments of the class.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file holds something else.
        """
        return cls(backbone, stage="image", text_checkpoint=text_file, image_checkpoint=image_file, **options)

    def _take(self, which: Stage, stored: StoredAdapter | None) -> None:
        """Load one stage's parameters from a file and mark the stage as finished."""
        if stored is None:
            return
        if not stored.by_authors:
            self._check_source(which, stored)
        module = self.text_adapter if which == "text" else self.image_adapter
        wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in stored.state.items()}
        if wanted != found:
            differ = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
            raise CheckpointError(
                f"The stored {which} adapters do not fit this model, first at '{differ[0]}': expected shape "
                f"{wanted.get(differ[0])}, found {found.get(differ[0])}. They belong to another backbone or to other "
                f"options."
            )
        module.load_state_dict(stored.state)
        self.finished[_STAGES.index(which)] = True
        unknown = [{"name": f"unknown data (the authors' {which} adapters)"}]
        self.trained_on = unknown if stored.by_authors else stored.checkpoint.get("zsad", {}).get("trained_on", [])

    def _check_source(self, which: Stage, stored: StoredAdapter) -> None:
        made = stored.checkpoint.get("zsad", {})
        Method.on_load_checkpoint(self, {"zsad": made, "state_dict": self.state_dict()})  # same method and backbone?
        finished = stored.checkpoint["state_dict"].get("finished", torch.zeros(2))
        if not bool(finished[_STAGES.index(which)]):
            raise CheckpointError(f"The {which} stage of that checkpoint is not finished: resume it with ckpt_path.")
        options = stored.checkpoint.get("hyper_parameters", {})
        for key in (f"lambda_{which}", "activation"):
            if options.get(key, self.hparams[key]) != self.hparams[key]:
                raise CheckpointError(
                    f"The {which} adapters were trained with {key}={options[key]!r}, this model has "
                    f"{self.hparams[key]!r}; give the same value."
                )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load learned parameters; frozen anchors are replaced by those of the same checkpoint."""
        self._frozen, self._arriving = self._arriving, {}
        return super().load_state_dict(state_dict, strict, assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the stage and the frozen anchors."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["zsad"]["stage"] = self.stage
        if self._frozen:
            checkpoint["zsad"]["anchor_keys"] = list(self._frozen)
            checkpoint["zsad"]["anchors"] = torch.stack([row.cpu() for row in self._frozen.values()])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what does not fit; see :meth:`Method.on_load_checkpoint`.

        Raises:
            CheckpointError: Also if one stage's fit is to be resumed from the other stage's checkpoint.
        """
        super().on_load_checkpoint(checkpoint)
        made = checkpoint.get("zsad", {})
        fitting = self._trainer is not None and self._trainer.state.fn == "fit"
        if fitting and made.get("stage", self.stage) != self.stage:
            raise CheckpointError(
                f"A fit with stage='{self.stage}' cannot resume from a checkpoint of stage='{made['stage']}'; to start "
                f"the second stage from the first, give it as text_checkpoint instead."
            )
        self._arriving = dict(zip(made.get("anchor_keys", ()), made.get("anchors", ()), strict=True))


def _one_of(name: str, value: Any, known: Any) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {list(known)}, got {value!r}.")


def _levels(depth: int) -> tuple[int, ...]:
    """Return the ends of the depth's four quarters, fewer where the tower is shallower than that."""
    return tuple(dict.fromkeys(max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)))


def _read(path: str | Path | None, which: str) -> StoredAdapter | None:
    return None if path is None else read_adapter(path, which)


def _adapted(stored: StoredAdapter | None, given: int | None, default: int) -> int:
    if given is not None:
        return given
    return default if stored is None else adapted_blocks(stored.state)
