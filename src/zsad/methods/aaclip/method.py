"""AA-CLIP: residual adapters in both towers of CLIP, trained in two stages: text first, then image."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.loading import Activation
from zsad.methods.aaclip.adapters import (
    ImageAdapter,
    TextAdapter,
    level_map,
    with_relu,
    xavier,
)
from zsad.methods.aaclip.options import (
    BLUR,
    SETTINGS,
    STAGES,
    VARIANTS,
    Domain,
    Stage,
    adapter_count,
    default_levels,
    one_of,
    read,
)
from zsad.methods.aaclip.stored import Stored
from zsad.prompts import load_prompts
from zsad.types import Context, ImageProtocol, Prediction
from zsad.weights.checkpoints import CheckpointError


class AACLIP(Stored):
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
    word_options = frozenset({"benchmark", "templates", "abnormal_states"})
    free_options = frozenset({"stage", "domain", "benchmark", "blur", "templates", "abnormal_states"})
    """Of the second stage; 16 in the first."""

    training_stages: ClassVar[tuple[dict[str, str], ...]] = ({"stage": "text"}, {"stage": "image"})
    """Options of the fits that make a trained model, in order."""
    previous_stage: ClassVar[str] = "text_checkpoint"
    """Argument that takes what the fit before has made."""

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
        one_of("stage", stage, STAGES)
        one_of("variant", variant, VARIANTS)
        one_of("domain", domain, (None, *BLUR))
        one_of("anchors", anchors, ("adapted", "plain"))
        choices = VARIANTS[variant]
        if activation is None and backbone == self.published_backbone:
            activation = choices["activation"]
        super().__init__(backbone, activation=activation, **kwargs)

        self.hparams["activation"] = activation
        stored = {"text": read(text_checkpoint, "text_adapter"), "image": read(image_checkpoint, "image_adapter")}
        clip = self.clip
        self.stage: Stage = stage
        self.domain: Domain = domain or "industrial"
        self.benchmark = benchmark
        self._given = (domain, benchmark)
        self.plain_anchors = anchors == "plain"
        self.levels = default_levels(clip.depth) if levels is None else tuple(levels)
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
        default_lr, default_milestones = SETTINGS[stage]
        self.lr = default_lr if lr is None else lr
        self.milestones = default_milestones if milestones is None else tuple(milestones)
        self.adam: dict[str, Any] = {"betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        self.lr_factor = lr_factor

        self.prompts = load_prompts(prompts)
        states = {**self.prompts.states, **({} if abnormal_states is None else {"anomalous": abnormal_states})}
        self.prompts = replace(self.prompts, states=states, templates=templates or self.prompts.templates)

        text_blocks = adapter_count(stored["text"], text_adapters, max(1, clip.text_depth // 4))
        image_blocks = adapter_count(stored["image"], image_adapters, max(1, clip.depth // 4))
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
        for which in STAGES:
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
        one_of("vv_axis", self.vv_axis, ("batch", "token"))
        one_of("stage1_levels", self.stage1_levels, ("last", "sum", "mean"))
        if self.blur is not None and (self.blur[0] < 1 or self.blur[0] % 2 == 0 or self.blur[1] <= 0):
            raise ValueError(f"blur must be (odd width, standard deviation > 0) in patches, got {self.blur}.")
        if self.stage == "text" and self.plain_anchors:
            raise ValueError("anchors='plain' leaves nothing to train in stage='text'; use stage='image'.")

    # ---- images

    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the sum of the levels' maps, and (<detection feature, anomalous anchor> + 1) / 2."""
        patches, detection = self.image_features(image)
        grid, size = self.clip.grid(image), (image.shape[-2], image.shape[-1])
        blur = self.blur or BLUR[self.domain]
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
        text, image_done = self.finished_stages
        done = {"text": self.plain_anchors or text, "image": image_done}
        missing = [which for which, finished in done.items() if not finished]
        if missing and not fitting and (self.trained_on or text or image_done):
            raise CheckpointError(
                f"This AACLIP has not finished its stage '{missing[0]}': those adapters are random or half-trained. "
                f"Fit stage='text', then stage='image' with text_checkpoint=..., and load the latter's checkpoint."
            )
        with torch.no_grad():  # training goes through loss
            return super().forward(image, class_names, image_paths)

    # ---- state
