"""MVFA-AD: multi-level adapters for anomalies in medical images, compared with text and with normal references."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.clip import Clip
from zsad.clip.blocks import whole
from zsad.clip.loading import Activation
from zsad.functional.maps import probability, similarity, to_grid, upsample
from zsad.methods.adam import AdamTrained
from zsad.methods.layers import chosen_layers
from zsad.methods.mvfa.adapters import Adapted, Adapter, Branch, bottlenecks
from zsad.methods.mvfa.checkpoint import FromMvfaAuthors
from zsad.methods.mvfa.fusion import Extremes, Fusion, Terms, collect
from zsad.methods.pixel_losses import PixelLosses
from zsad.methods.prototypes import prototypes
from zsad.prompts import ClassWords, load_prompts
from zsad.training.augment import VIEWS, view
from zsad.types import CLIP_MEAN, CLIP_STD, Batch, Context, ImageProtocol, Prediction

_ALIASES = {"Retina": "retinal OCT"}  # the data module's word -> the released code's
_BRANCHES: tuple[Branch, Branch] = ("seg", "det")


class MVFA(FromMvfaAuthors, PixelLosses, AdamTrained):
    """Mix small bottleneck adapters into four blocks of the image tower; their bottlenecks meet the text.

    After each of four blocks an adapter for segmentation and one for detection give a bottleneck, compared with prompts
    like a projected patch, and an output, a tenth of which is mixed into the stream. CLIP's own projection and class
    token play no part. Follows the released code (MediaBrain-SJTU/MVFA-AD).

    With references (see :class:`~zsad.methods.few_shot.FewShot`) the distances to the nearest token of eleven views of
    each are added; the published few-shot numbers also *train on the target*: supervised few-shot.

    Paper: Huang et al., CVPR 2024, arXiv 2403.12570.

    Args:
        backbone: Backbone name or a loaded one.
        layers: Blocks, from 1, that get adapters; None takes the quarters of the depth, which are the published 6, 12,
            18 and 24 of 24.
        adapter_share: Share of each of the two outputs in the stream.
        bottleneck: Width of the bottlenecks; None is the joint embedding's, the only one that can meet the text.
        negative_slope: Of LeakyReLU.
        temperature: Divisor of the cosines.
        prompts: Packaged prompt list or YAML file.
        class_words: How class names are spelled in prompts.
        normalise_image: ``"none"``, as the released code, leaves the image in [0, 1]; ``"clip"`` applies CLIP's mean
            and standard deviation.
        few_shot_branch: ``"seg"``, as for data with masks: memory and text map of the segmentation branch, the score is
            the maximum of the fused map. ``"det"``, as for data without: memory and text score of the detection branch.
        few_shot_score: ``"fixed"`` fuses by the ranges that both terms can have, so that a score depends on its image
            alone. ``"set_minmax"`` is the published rule, the least and greatest value among *all test images of the
            class*; they are collected in a pass of their own when validation, test or benchmark starts.
        reference_views: Whether the memory holds eleven views of each reference, or the reference alone.
        memory_class_token: Whether the memory holds the class tokens as well.
        reference_split: Part of the data that references are drawn from; the released code draws from ``"valid"``.
        lr: Learning rate of Adam, constant; the released few-shot script takes 1e-3.
        image_loss_weight: Of the image-level loss.
        pixel_loss_weight: Of focal and dice loss.
        activation: The published mismatch; ``"quick_gelu"`` is what OpenAI's weights were trained with.
        **kwargs: Options of :class:`~zsad.methods.pixel_losses.PixelLosses` and
            :class:`~zsad.methods.adam.AdamTrained`.

    Raises:
        ValueError: If an option is out of range for the backbone.
    """

    published_backbone = "ViT-L-14-336/openai"
    published_protocol = ImageProtocol(size=240, mean=(0, 0, 0), std=(1, 1, 1), mask_resize="nearest")
    published_epochs = 50
    published_batch_size = 1
    few_shot_in_score = True

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        layers: Sequence[int] | None = None,
        adapter_share: float = 0.1,
        bottleneck: int | None = None,
        negative_slope: float = 0.01,
        temperature: float = 0.01,
        prompts: str = "vand",
        class_words: ClassWords = "readable",
        normalise_image: Literal["none", "clip"] = "none",
        few_shot_branch: Branch = "seg",
        few_shot_score: Literal["fixed", "set_minmax"] = "fixed",
        reference_views: bool = True,
        memory_class_token: bool = True,
        reference_split: str = "train",
        lr: float = 1e-4,
        image_loss_weight: float = 1.0,
        pixel_loss_weight: float = 1.0,
        activation: Activation | None = "gelu",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, activation=activation, **kwargs)
        width, dim = self.clip.width, self.clip.dim
        self.layers = chosen_layers(self.clip, layers)
        if bottleneck not in (None, dim):
            raise ValueError(f"bottleneck must be {dim}, the joint embedding of '{self.clip.name}', got {bottleneck}.")
        if not 0 <= adapter_share <= 0.5:
            raise ValueError(f"adapter_share must be in [0, 0.5], got {adapter_share}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}.")
        for name, value, known in (
            ("normalise_image", normalise_image, ("none", "clip")),
            ("few_shot_branch", few_shot_branch, _BRANCHES),
            ("few_shot_score", few_shot_score, ("fixed", "set_minmax")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {list(known)}, got '{value}'.")
        if normalise_image == "clip":
            self.protocol = replace(self.protocol, mean=CLIP_MEAN, std=CLIP_STD)
        self.prompts = load_prompts(prompts)
        self.prompts = replace(self.prompts, class_aliases={**_ALIASES, **self.prompts.class_aliases})
        self.class_words: ClassWords = class_words
        self.adapter_share, self.temperature = adapter_share, temperature
        self.few_shot_branch: Branch = few_shot_branch
        self.few_shot_score, self.reference_split = few_shot_score, reference_split
        self.reference_views, self.memory_class_token = reference_views, memory_class_token
        self.lr = lr
        self.image_loss_weight, self.pixel_loss_weight = image_loss_weight, pixel_loss_weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.seg_adapters, self.det_adapters = (
                nn.ModuleList(Adapter(width, dim, negative_slope) for _ in self.layers) for _ in _BRANCHES
            )
        for adapters in (self.seg_adapters, self.det_adapters):
            adapters[-1].fc2.requires_grad_(False)  # its output meets nothing
        self._extremes: dict[str, Extremes] = {}
        self._saw_masks = False
        self._declare_range()

    # ---- prediction

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return the state vectors of each class, (classes, 2, dim), of unit length."""
        return prototypes(self.clip, self.prompts, class_names, self.class_words)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of patches of images of that height and width; what is left over is not seen.

        Raises:
            ValueError: If not a single patch fits.
        """
        patch = self.clip.patch_size
        if min(size) < patch:
            raise ValueError(f"Images of {size[0]} x {size[1]} pixels hold no patch of {patch} x {patch}.")
        return size[0] // patch, size[1] // patch

    @torch.no_grad()
    def frozen_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return the ``state`` after the first adapted block's own computation, (batch, 1 + patches, width)."""
        rows, columns = (number * self.clip.patch_size for number in self.grid((image.shape[-2], image.shape[-1])))
        embedded, last = self.clip.embed_image(image[..., :rows, :columns]), self.layers[0]
        state, _ = self.clip.run_image(embedded, lambda number, block, x: whole(block, x) if number <= last else x)
        return {"state": state}

    def cache_settings(self) -> dict[str, Any]:
        """Return the option that decides :meth:`frozen_features`."""
        return {"first": self.layers[0]}

    def adapted(self, state: Tensor) -> Adapted:
        """Return the adapters' tokens, with gradient to the adapters.

        Args:
            state: As :meth:`frozen_features` gives it.
        """
        kept: dict[Branch, dict[int, Tensor]] = {branch: {} for branch in _BRANCHES}
        modules: Mapping[Branch, Any] = {"seg": self.seg_adapters, "det": self.det_adapters}
        step = bottlenecks(modules, self.layers, self.adapter_share, kept, done=self.layers[0])
        last, _ = self.clip.run_image(state, step)
        return Adapted(last, kept)

    def layer_probability(self, tokens: Tensor, text: Tensor, size: tuple[int, int]) -> Tensor:
        """Return probabilities of (normal, anomalous) per pixel, (batch, 2, height, width): enlarged, then softmax.

        Args:
            tokens: One block's segmentation bottlenecks, (batch, 1 + patches, dim).
            text: Text vectors of each image's class, (batch, 2, dim).
            size: Height and width of the images.
        """
        logits = (similarity(tokens[:, 1:], text) / self.temperature).transpose(1, 2).unflatten(2, self.grid(size))
        return upsample(logits, size, align_corners=True).softmax(dim=1)

    def layer_score(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return the mean probability of "anomalous" of one block's detection bottlenecks, (batch,), at patch level."""
        return probability(similarity(tokens[:, 1:], text), self.temperature).mean(dim=1)

    def distance_map(self, number: int, tokens: Tensor, class_names: Sequence[str], size: tuple[int, int]) -> Tensor:
        """Return one block's enlarged distance to the nearest token of the references, (batch, height, width)."""
        distance = self.memory.distance(f"{self.few_shot_branch}.layer{number}", tokens[:, 1:], class_names)
        return upsample(to_grid(distance, self.grid(size)), size, align_corners=True)

    @torch.no_grad()
    def terms(self, image: Tensor, text: Tensor, class_names: Sequence[str]) -> Terms:
        """Return the zero-shot map and score, and the few-shot map if there are references, each a sum over layers."""
        tokens = self.adapted(self.frozen_features(image)["state"]).tokens
        size = (image.shape[-2], image.shape[-1])
        zero_map = torch.stack([self.layer_probability(one, text, size)[:, 1] for one in tokens["seg"].values()])
        zero_score = torch.stack([self.layer_score(one, text) for one in tokens["det"].values()])
        few_map = None
        if self.is_few_shot(class_names):
            seen = tokens[self.few_shot_branch].items()
            few_map = torch.stack([self.distance_map(*one, class_names, size) for one in seen]).sum(dim=0)
        return Terms(zero_map.sum(dim=0), zero_score.sum(dim=0), few_map)

    def export_obstacle(self) -> str | None:
        """Return why there is no graph with these options."""
        if self.memory.classes and self.few_shot_score == "set_minmax":
            return "few_shot_score='set_minmax' needs all images of a class; take few_shot_score='fixed'."
        return None

    @torch.no_grad()
    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the sum of the layers' maps and scores; with references, the fusion of text and distances."""
        terms = self.terms(image, text, context.class_names)
        if terms.few_map is None:
            return Prediction(terms.zero_map, terms.zero_score)
        fusion = Fusion(self.few_shot_branch, len(self.layers))
        if self.few_shot_score == "fixed":
            return fusion(terms)
        if missing := sorted(set(context.class_names) - set(self._extremes)):
            raise ValueError(
                f"few_shot_score='set_minmax' needs all test images of the classes {missing} beforehand: it exists in "
                f"validate, test and benchmark, for tables; few_shot_score='fixed' judges an image by itself."
            )
        return fusion(terms, [self._extremes[name] for name in context.class_names])

    # ---- references

    def reference_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return tokens of all views of each image, ``"seg.layer6"`` and so on -> (views * batch, tokens, dim)."""
        views = [view(image, number) for number in range(VIEWS if self.reference_views else 1)]
        parts = [self.adapted(self.frozen_features(one)["state"]).tokens[self.few_shot_branch] for one in views]
        first = 0 if self.memory_class_token else 1
        return {
            f"{self.few_shot_branch}.layer{number}": torch.cat([part[number][:, first:] for part in parts])
            for number in self.layers
        }

    def draw_references(self, source: Any) -> None:
        """Draw references, declare the range of the maps and, for ``"set_minmax"``, look at all test images."""
        super().draw_references(source)
        self._declare_range()
        self._extremes = {}
        if source is not None and self.few_shot_score == "set_minmax" and self.memory.classes:
            fitting = self._trainer is not None and self._trainer.state.fn in ("fit", "validate")
            self._extremes = collect(self, source, getattr(source, "val_split", None) if fitting else None)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load learned parameters; references seen through others are forgotten."""
        self.forget_references()
        return super().load_state_dict(state_dict, strict, assign)

    def _declare_range(self) -> None:
        self.declare_range(0.0, 1.0 if self.memory.classes else float(len(self.layers)))

    # ---- training

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return image-level and, where there are masks, pixel-level losses of all layers, and their sum.

        The image-level loss is binary cross-entropy *with logits* of a mean probability, as in the released code.

        Raises:
            ValueError: If labels are missing.
        """
        self.require(batch, "gt_label")
        tokens, text = self.adapted(self.features_of(batch)["state"]).tokens, self.text(batch["class_name"])
        label, mask = batch["gt_label"], batch.get("gt_mask")
        losses = {}
        for number in self.layers:
            prob = self.layer_score(tokens["det"][number], text)
            losses[f"bce.l{number}"] = F.binary_cross_entropy_with_logits(prob, label.to(prob.dtype))
            if mask is not None:
                probs = self.layer_probability(tokens["seg"][number], text, (mask.shape[-2], mask.shape[-1]))
                losses[f"focal.l{number}"] = self.focal(probs, mask)
                losses[f"dice.l{number}"] = self.dice(probs[:, 1], mask)
        self._saw_masks = self._saw_masks or mask is not None
        weights = {"b": self.image_loss_weight, "f": self.pixel_loss_weight, "d": self.pixel_loss_weight}
        total = torch.stack([weights[name[0]] * value for name, value in losses.items()]).sum()
        return {"loss": total, **losses}

    def on_fit_start(self) -> None:
        """Forget references that were seen through the adapters as they are now."""
        self.forget_references()
        super().on_fit_start()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the segmentation adapters alone in a step without masks: no gradient, so no momentum moves them."""
        saw, self._saw_masks = self._saw_masks, False
        if self._trainer is not None:
            saw = self.trainer.strategy.reduce_boolean_decision(saw, all=False)
        if not saw:
            for parameter in self.seg_adapters.parameters():
                parameter.grad = None
