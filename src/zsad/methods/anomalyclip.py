"""AnomalyCLIP: object-agnostic prompts, learned once on an auxiliary data set, against V-V attention tokens."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.blocks import TwoPath, two_path
from zsad.functional.maps import probability, similarity, to_grid, upsample
from zsad.methods.adam import AdamTrained
from zsad.methods.author_files import AuthorState, read_anomalyclip
from zsad.methods.authors import FromAuthors
from zsad.methods.layers import chosen_layers
from zsad.methods.pixel_losses import PixelLosses
from zsad.methods.prompt_learner import DeepTokenCast, PromptLearner, PromptMethod
from zsad.types import Batch, Context, Prediction
from zsad.weights.checkpoints import CheckpointError

DpamAttention = Literal["vv", "qq", "kk", "qk"]


class AnomalyCLIP(PromptMethod, FromAuthors, PixelLosses, AdamTrained):
    """Learn one pair of prompts for "an object" and "a damaged object" of any kind, and find defects of unseen classes.

    The defaults are those of the authors' released code, which produced the published tables; where the paper says
    something else, ``variant="paper"`` follows the paper. Zhou et al., ICLR 2024, arXiv 2310.18961.

    Args:
        backbone: Backbone name or a loaded one.
        variant: ``"released"``: maps of the last block, local loss weight 4. ``"paper"``: maps of four blocks at
            quarters of the depth (6, 12, 18, 24 of 24), local loss weight 1. In the code behind the published numbers
            the four maps were one and the same, the last block's.
        n_ctx: Context vectors per prompt.
        depth: ``depth - 1`` deep token tensors, at the inputs of text blocks 2..``depth``; 1 turns them off. Capped at
            the text tower's depth.
        n_deep: Length of a deep token tensor.
        normal_words: Words after the context; with ``{}`` for the class name the prompts are object-aware (table 7).
        abnormal_words: The same for the abnormal prompt (tables 13 and 14).
        share_context: One context for both prompts (table 9).
        feature_layers: Blocks, from 1, whose patch tokens give a map each; None as ``variant`` says.
        dpam_blocks: Number of blocks, counted from the end, with the side path of self-correlation attention; 0 turns
            it off. More than the tower has means all but the first.
        dpam_attention: What plays query and key in the side path, or several kinds, whose cosines are averaged
            (table 10); ``"qk"`` stands for the ordinary stream.
        cls_ln_post: Whether the class token passes the last LayerNorm, as in CLIP; not in the released code.
        temperature: Divisor of the cosines.
        local_loss_weight: Weight of the pixel losses; None as ``variant`` says, 0 trains without masks.
        image_loss: Whether the cross-entropy of the image labels is part of the loss (table 5).
        focal_loss: Whether the focal loss is part of the pixel losses (table 11).
        dice_loss: Whether the two dice losses are part of the pixel losses (table 11).
        lr: Learning rate of Adam, constant.
        deep_token_cast: ``"float16"`` rounds the deep tokens as the released code does.
        **kwargs: Options of :class:`~zsad.methods.prompt_learner.PromptMethod`,
            :class:`~zsad.methods.pixel_losses.PixelLosses` and :class:`~zsad.methods.adam.AdamTrained`.

    Raises:
        ValueError: If an option is out of range for the backbone.
    """

    published_epochs = 15
    published_batch_size = 8

    def __init__(
        self,
        backbone: str | Clip = PromptMethod.published_backbone,
        variant: Literal["released", "paper"] = "released",
        n_ctx: int = 12,
        depth: int = 9,
        n_deep: int = 4,
        normal_words: str = "object",
        abnormal_words: str = "damaged object",
        share_context: bool = False,
        feature_layers: Sequence[int] | None = None,
        dpam_blocks: int = 19,
        dpam_attention: DpamAttention | Sequence[DpamAttention] = "vv",
        cls_ln_post: bool = False,
        temperature: float = 0.07,
        local_loss_weight: float | None = None,
        image_loss: bool = True,
        focal_loss: bool = True,
        dice_loss: bool = True,
        lr: float = 1e-3,
        deep_token_cast: DeepTokenCast = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if variant not in ("released", "paper"):
            raise ValueError(f"variant must be 'released' or 'paper', got '{variant}'.")
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}.")
        if dpam_blocks < 0:
            raise ValueError(f"dpam_blocks must be >= 0, got {dpam_blocks}; 0 turns the side path off.")
        last = self.clip.depth
        by_variant = None if variant == "paper" else (last,)
        self.layers = chosen_layers(self.clip, feature_layers, by_variant, "feature_layers")
        kinds = (dpam_attention,) if isinstance(dpam_attention, str) else tuple(dpam_attention)
        if not kinds or len(set(kinds)) != len(kinds) or not set(kinds) <= set(get_args(DpamAttention)):
            raise ValueError(
                f"dpam_attention must be one of {get_args(DpamAttention)} or a list of different ones, "
                f"got {dpam_attention!r}."
            )
        blocks = dpam_blocks if dpam_blocks <= last else last - 1
        self.kinds: tuple[DpamAttention, ...] = kinds if blocks else ("qk",)
        self.first_block = last - blocks + 1
        self.cls_ln_post = cls_ln_post
        self.temperature = temperature
        self.local_loss_weight = local_loss_weight
        if local_loss_weight is None:
            self.local_loss_weight = 4.0 if variant == "released" else 1.0
        self.image_loss, self.focal_loss, self.dice_loss = image_loss, focal_loss, dice_loss
        self.lr = lr
        self.declare_range(0.0, float(len(self.layers)))
        self.prompts = PromptLearner(
            self.clip, normal_words, abnormal_words, n_ctx, depth, n_deep, share_context, deep_token_cast, self.seed
        )

    # ---- images

    def class_token_embedding(self, cls: Tensor) -> Tensor:
        """Return what the image score compares with the text, of the class token after the last block, (batch, width).

        Methods that have it can be explained by the relevance of patches.
        """
        return self.clip.project(self.clip.ln_post(cls) if self.cls_ln_post else cls)

    def image_tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image embedding and the local tokens of one pass through the tower, neither of unit length.

        Args:
            image: Normalised images, (batch, 3, height, width).

        Returns:
            (batch, dim), and (batch, layers, kinds, 1 + patches, dim) with the class token at index 0.
        """
        side_kinds = tuple(kind for kind in self.kinds if kind != "qk")
        narrow = 0 if "qk" in self.kinds else self.clip.depth
        step = two_path(self.first_block, side_kinds, narrow=narrow) if side_kinds else None
        last, kept = self.clip.run_image(self.clip.embed_image(image), step, keep=self.layers)
        cls = (last.main if isinstance(last, TwoPath) else last)[:, 0]
        cls = self.class_token_embedding(cls)
        layers = [torch.stack(self._streams(kept[number], side_kinds), dim=1) for number in self.layers]
        return cls, self.clip.project(self.clip.ln_post(torch.stack(layers, dim=1)))

    def _streams(self, state: Tensor | TwoPath, side_kinds: Sequence[str]) -> list[Tensor]:
        """One stream per kind, (batch, tokens, width); below the first side block all are the ordinary one."""
        if not isinstance(state, TwoPath):
            return [state] * len(self.kinds)
        side = dict(zip(side_kinds, state.side, strict=True))
        return [side.get(kind, state.main) for kind in self.kinds]

    def image_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return ``cls`` (batch, dim) and ``patches`` (batch, layers, kinds, patches, dim)."""
        cls, tokens = self.image_tokens(image)
        return {"cls": cls, "patches": tokens[:, :, :, 1:]}

    def patch_probability(self, patches: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return probabilities of (normal, abnormal) per patch, (batch, layers, 2, rows, columns).

        Args:
            patches: (batch, layers, kinds, patches, dim).
            text: (batch, 2, dim).
            grid: Rows and columns of patches.
        """
        cosines = similarity(patches.flatten(1, 3), text).unflatten(1, patches.shape[1:4]).mean(dim=2)
        return (cosines / self.temperature).softmax(dim=-1).movedim(-1, 2).unflatten(-1, grid)

    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the sum of the layers' enlarged probability maps, and the probability of the abnormal text.

        The maps lie in [0, number of layers]; they take no part in the image score (section 3.4).
        """
        features = self.image_features(image)
        patches = features["patches"]
        cosines = similarity(patches.flatten(1, 3), text).unflatten(1, patches.shape[1:4]).mean(dim=2)
        prob = probability(cosines, self.temperature).sum(dim=1)  # enlarging is linear: once for all layers
        return Prediction(
            anomaly_map=upsample(to_grid(prob, self.clip.grid(image)), (image.shape[-2], image.shape[-1])),
            pred_score=probability(similarity(features["cls"], text), self.temperature),
        )

    # ---- training

    @torch.no_grad()
    def frozen_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return :meth:`image_features` without graph; the prompts take no part in it."""
        return self.image_features(image)

    def cache_settings(self) -> dict[str, Any]:
        """Return the options that decide the image features."""
        return {
            "layers": self.layers,
            "kinds": self.kinds,
            "first_block": self.first_block,
            "cls_ln_post": self.cls_ln_post,
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the objective (equation 2) and its terms: ``image``, and per layer ``focal``, ``dice_*``, unweighted.

        Raises:
            ValueError: If labels or masks are missing.
        """
        features = self.features_of(batch)
        text = self.batch_text(batch["class_name"])
        losses: dict[str, Tensor] = {}
        total = text.new_zeros(())
        if self.image_loss:
            if "gt_label" not in batch:
                raise ValueError(f"AnomalyCLIP's image loss needs gt_label, {batch['image_path'][0]} has none.")
            cosines = similarity(features["cls"], text)
            losses["image"] = F.cross_entropy(cosines / self.temperature, batch["gt_label"])
            total = total + losses["image"]
        if self.local_loss_weight and (self.focal_loss or self.dice_loss):
            losses |= (local := self._local_losses(features["patches"], text, batch))
            losses["local"] = self.local_loss_weight * torch.stack(list(local.values())).sum()
            total = total + losses["local"]
        if not losses:
            raise ValueError("AnomalyCLIP has no loss left: switch on image_loss, focal_loss or dice_loss.")
        return {"loss": total, **losses}

    def _local_losses(self, patches: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        if "gt_mask" not in batch:
            raise ValueError(
                f"AnomalyCLIP's pixel losses need gt_mask, {batch['image_path'][0]} has none; local_loss_weight=0 "
                f"trains with image labels alone."
            )
        mask = batch["gt_mask"]
        probs = self.patch_probability(patches, text, self.clip.grid(mask))
        losses = {}
        for number, layer in zip(self.layers, probs.unbind(dim=1), strict=True):
            layer = upsample(layer, (mask.shape[-2], mask.shape[-1]))
            if self.focal_loss:
                losses[f"focal.l{number}"] = self.focal(layer, mask)
            if self.dice_loss:
                losses[f"dice_abnormal.l{number}"] = self.dice(layer[:, 1], mask)
                losses[f"dice_normal.l{number}"] = self.dice(layer[:, 0], ~mask.bool())
        return losses

    # ---- the authors' files

    @classmethod
    def read_author_file(cls, path: str | Path) -> AuthorState:
        """Return the prompts of ``epoch_15.pth`` and its like; ``ctx_pos`` is the *normal* context."""
        return read_anomalyclip(path)

    def take_author_state(self, path: str | Path, stored: AuthorState) -> None:
        """Load the prompts; compare what only repeats the backbone with it, and leave out what takes no part.

        Raises:
            CheckpointError: They belong to a text tower of another width or depth.
        """
        learned = {name.removeprefix("prompts."): value for name, value in stored.parameters.items()}
        n_deep = sum(name.startswith("deep_tokens.") for name in learned)
        width, found = self.clip.text_width, learned["ctx_normal"].shape[1]
        if found != width:
            raise CheckpointError(
                f"'{path}' holds prompts of width {found}, the text tower of '{self.clip.name}' has width {width}: "
                f"load the backbone that they were trained for."
            )
        if len(self.prompts.deep_tokens) != n_deep:
            raise CheckpointError(
                f"'{path}' holds {n_deep} deep token tensors, '{self.clip.name}' has {self.clip.text_depth} text "
                f"blocks and takes {len(self.prompts.deep_tokens)}."
            )
        if self.prompts.share_context:
            del learned["ctx_abnormal"]
        self.prompts.load_state_dict(learned)
        self._compare_with_backbone(path, stored.evidence)

    @torch.no_grad()
    def _compare_with_backbone(self, path: str | Path, state: dict[str, Tensor]) -> None:
        ids = self.clip.tokenize(self.prompts.texts(["object"]))
        for row, side in enumerate(("pos", "neg")):
            stored = state.get(f"tokenized_prompts_{side}")
            if stored is not None and not torch.equal(stored.flatten().cpu(), ids[row].cpu().to(stored.dtype)):
                warnings.warn(
                    f"'{path}' was trained with other words than '{self.prompts.words[row]}'; pass normal_words and "
                    f"abnormal_words.",
                    stacklevel=4,
                )
            suffix = state.get(f"token_suffix_{side}")
            if suffix is None:
                continue
            own = self.clip.embed_text(ids[row, 1 + self.prompts.n_ctx :]).float().cpu()
            if suffix.shape[-2:] != own.shape or not torch.allclose(suffix[0, 0].float().cpu(), own, atol=1e-3):
                warnings.warn(
                    f"'{path}' was trained with another CLIP than '{self.clip.name}' or with other words: its token "
                    f"embeddings differ.",
                    stacklevel=4,
                )
