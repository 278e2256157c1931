"""VisualAD: an anomaly and a normal token learned in CLIP's image tower, compared with the patches of four blocks."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from zsad.clip import Clip
from zsad.clip.backbone import Position
from zsad.functional.maps import similarity, smooth, to_grid, top_mean, upsample
from zsad.methods.layers import chosen_layers
from zsad.methods.pixel_losses import PixelLosses
from zsad.methods.visualad.checkpoint import read_author_file, source_of
from zsad.methods.visualad.parts import CrossAttention, Recalibration, Seen
from zsad.types import Batch, Context, ImageProtocol, Prediction

NormOf = Literal["backbone", "trained"]
ImageScore = Literal["top_mean", "max"]


class VisualAD(PixelLosses):
    """Learn two tokens, "anomaly" and "normal", that travel through the frozen image tower; no text takes part.

    Both enter before block 1 and are prototypes after the last one. For each of four blocks a cross-attention adds
    evidence from the block's patches to the prototypes, an MLP recalibrates the patches, and a patch's score is its
    cosine with the anomaly prototype minus its cosine with the normal one. The maps are enlarged, summed and smoothed.

    Paper: VisualAD, CVPR 2026, arXiv 2603.07952. Follows the released code (7HHHHH/VisualAD).

    Args:
        backbone: Backbone name or a loaded one.
        layers: Blocks, from 1, whose patches are read; None takes the quarters of the depth, which are the published
            6, 12, 18 and 24 of 24.
        n_anchors: Learned queries of each cross-attention.
        hidden: Width inside each recalibration; None is the tower's width.
        max_patches: Rows of the anchors' position table: the greatest number of patches an image may have.
        dropout: Rate in training, at four places.
        ln_post: Which last LayerNorm evaluation applies to tokens and patches: CLIP's own (``"backbone"``), as the
            released test script does although training learns another one, or the learned one (``"trained"``).
            Training uses the learned one in any case.
        image_score: ``"top_mean"``, the mean of the highest pixels of the smoothed map, or ``"max"``, as the paper's
            figure says.
        score_ratio: Share of the pixels that count for ``"top_mean"``.
        sigma: Gaussian on the finished map in pixels, whatever the image size.
        lr: Learning rate of the two tokens.
        lr_factor: Rate of everything else, as a part of ``lr``.
        eta_min_factor: Where the cosine schedule ends, for all rates, as a part of ``lr``.
        betas: Averaging factors of AdamW.
        eps: Small number in AdamW's denominator.
        weight_decay: Of AdamW, on everything that is learned.
        clip_norm: Greatest norm of the gradient of each token, clipped apart from the other's; nothing else is clipped.
        margin: The prototypes' cosine is pushed below minus this.
        position: How the position table is resized.
        **kwargs: Options of :class:`~zsad.methods.pixel_losses.PixelLosses`.

    Raises:
        ValueError: If an option is out of range for the backbone.
    """

    published_backbone = "ViT-L-14-336-quickgelu/openai"
    published_protocol = ImageProtocol(size=518)
    published_epochs = 1  # on VisA; 2 on MVTec AD
    published_batch_size = 8
    class_agnostic = True
    score_range = None  # within [-2, 2] per layer, but a short training fills a hundredth of that

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        layers: Sequence[int] | None = None,
        n_anchors: int = 4,
        hidden: int | None = None,
        max_patches: int = 1536,
        dropout: float = 0.1,
        ln_post: NormOf = "backbone",
        image_score: ImageScore = "top_mean",
        score_ratio: float = 0.01,
        sigma: float = 4.0,
        lr: float = 1e-3,
        lr_factor: float = 0.1,
        eta_min_factor: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        clip_norm: float = 1.0,
        margin: float = 0.5,
        position: Position = "bilinear",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, sigma=sigma, position=position, **kwargs)
        width = self.clip.width
        self.layers = chosen_layers(self.clip, layers)
        hidden = width if hidden is None else hidden
        for name, value in (("n_anchors", n_anchors), ("hidden", hidden), ("max_patches", max_patches)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}.")
        if not 0 < score_ratio <= 1:
            raise ValueError(f"score_ratio must be in (0, 1], got {score_ratio}.")
        if clip_norm <= 0:
            raise ValueError(f"clip_norm must be > 0, got {clip_norm}; a large number clips nothing.")
        if ln_post not in ("backbone", "trained"):
            raise ValueError(f"ln_post must be 'backbone' or 'trained', got '{ln_post}'.")
        if image_score not in ("top_mean", "max"):
            raise ValueError(f"image_score must be 'top_mean' or 'max', got '{image_score}'.")
        self.ln_post: NormOf = ln_post
        self.image_score: ImageScore = image_score
        self.score_ratio, self.max_patches = score_ratio, max_patches
        self.lr, self.lr_factor, self.eta_min_factor = lr, lr_factor, eta_min_factor
        self.adam: dict[str, Any] = {"betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        self.clip_norm, self.margin = clip_norm, margin
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.anomaly_token, self.normal_token = (
                nn.Parameter(0.1 * torch.randn(width) / math.sqrt(width)) for _ in range(2)
            )
            attention = {
                f"layer_{number}": CrossAttention(width, n_anchors, max_patches, dropout) for number in self.layers
            }
            self.layer_transforms = nn.ModuleDict(
                {f"layer_{number}": Recalibration(width, hidden, dropout) for number in self.layers}
            )
        self.cross_attn = nn.ModuleDict({"layer_attentions": nn.ModuleDict(attention)})
        own = self.clip.model.visual.ln_post
        self.ln_post_weight, self.ln_post_bias = (
            nn.Parameter(value.detach().clone().float()) for value in (own.weight, own.bias)
        )

    # ---- prediction

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return text vectors for no text, (classes, 0, dim): no encoder runs."""
        return torch.zeros(len(class_names), 0, self.clip.dim, device=self.device)

    def embed(self, image: Tensor) -> Tensor:
        """Return the input of block 1, (batch, 3 + patches, width): anomaly, normal and class token, then the patches.

        Both learned tokens get the position row of the class token.

        Raises:
            ValueError: If an image has more patches than the anchors' position table has rows.
        """
        grid = self.clip.grid(image)
        if grid[0] * grid[1] > self.max_patches:
            raise ValueError(
                f"{image.shape[-2]} x {image.shape[-1]} pixels make {grid[0] * grid[1]} patches, the anchors' position "
                f"table has {self.max_patches} rows: use images of at most "
                f"{math.isqrt(self.max_patches) * self.clip.patch_size} pixels, or train with a larger max_patches."
            )
        x = self.clip.embed_image(image, ln_pre=False)
        learned = torch.stack([self.anomaly_token, self.normal_token]).to(x.dtype) + self.clip.position_table(grid)[0]
        return self.clip.ln_pre(torch.cat([learned.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1))

    def look(self, image: Tensor, ln_post: NormOf | None = None, drop: bool = False) -> Seen:
        """Return prototypes, patches and grids of scores of every read block, with gradient.

        Args:
            image: Normalised images, (batch, 3, height, width).
            ln_post: Which LayerNorm; the option of that name by default.
            drop: Whether dropout acts.
        """
        trained = (ln_post or self.ln_post) == "trained"
        last, kept = self.clip.run_image(self.embed(image), keep=self.layers)
        special = self._norm(last[:, :2], trained)
        patches = {number: self._norm(state[:, 3:], trained) for number, state in kept.items()}
        attention = self.cross_attn["layer_attentions"]
        tokens, recalibrated, grids = {}, {}, {}
        for number, seen in patches.items():
            tokens[number] = attention[f"layer_{number}"](seen, special, drop)  # type: ignore[index]
            recalibrated[number] = self.layer_transforms[f"layer_{number}"](seen, drop)
            anomaly, normal = similarity(recalibrated[number], tokens[number]).unbind(dim=-1)
            grids[number] = to_grid(anomaly - normal, self.clip.grid(image))
        return Seen(special, patches, tokens, recalibrated, grids)

    def _norm(self, x: Tensor, trained: bool) -> Tensor:
        weight, bias = self.ln_post_weight, self.ln_post_bias
        if not trained:
            return self.clip.ln_post(x).to(weight.dtype)
        return F.layer_norm(x.to(weight.dtype), weight.shape, weight, bias, self.clip.model.visual.ln_post.eps)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Return the score of each finished map, (batch, height, width) -> (batch,)."""
        return maps.amax(dim=(1, 2)) if self.image_score == "max" else top_mean(maps, self.score_ratio)

    @torch.no_grad()
    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the sum of the layers' enlarged maps, and the score that its smoothed form gives; text is ignored."""
        size = (image.shape[-2], image.shape[-1])
        total = torch.stack([upsample(grid, size) for grid in self.look(image).grids.values()]).sum(dim=0)
        return Prediction(total, self.image_scores(smooth(total, self.sigma)))

    # ---- training

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return segmentation + image + contrast loss, with dropout; logged are the parts, focal and dice per layer.

        Segmentation: focal loss of both channels and dice loss of the anomalous one, of the sigmoid of each enlarged
        map. Image: binary cross-entropy of the highest pixels' mean of the unsmoothed sum. Contrast: how far the
        prototypes of the last read block are from pointing apart.

        Raises:
            ValueError: If masks or labels are missing.
        """
        self.require(batch, "gt_mask", "gt_label")
        mask = batch["gt_mask"]
        seen = self.look(batch["image"], "trained", drop=True)
        maps = {number: upsample(grid, (mask.shape[-2], mask.shape[-1])) for number, grid in seen.grids.items()}
        losses = {}
        for number, one in maps.items():
            prob = one.sigmoid()
            losses[f"focal.l{number}"] = self.focal(torch.stack([1 - prob, prob], dim=1), mask)
            losses[f"dice.l{number}"] = self.dice(prob, mask)
        logits = top_mean(torch.stack(list(maps.values())).sum(dim=0), self.score_ratio)
        losses["image"] = F.binary_cross_entropy_with_logits(logits, batch["gt_label"].to(logits.dtype))
        losses["contrast"] = contrast(seen.tokens[self.layers[-1]], self.margin)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def published_fit(self, source: str) -> tuple[int, dict[str, Any]]:
        """Return epochs and data options: two epochs on MVTec AD, one on any other data."""
        return (2 if source == "mvtec_ad" else self.published_epochs), {}

    def configure_optimizers(self) -> Any:
        """Return AdamW with one rate for the tokens and one for the rest, and a cosine schedule over the epochs.

        Raises:
            ValueError: If the Trainer does not know its number of epochs.
        """
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError(
                f"VisualAD's cosine schedule runs over the epochs, got max_epochs={epochs}: give the Trainer a "
                f"positive max_epochs (published: 2 on MVTec AD, 1 on VisA)."
            )
        return self.optimizer_and_schedule(epochs)

    def optimizer_and_schedule(self, epochs: int) -> dict[str, Any]:
        """Return what :meth:`configure_optimizers` returns, for a given number of epochs."""
        tokens = [self.anomaly_token, self.normal_token]
        rest = [
            value
            for name, value in self.named_parameters()
            if not name.startswith("clip.") and name not in ("anomaly_token", "normal_token")
        ]
        optimizer = torch.optim.AdamW(
            [{"params": tokens, "lr": self.lr}, {"params": rest, "lr": self.lr * self.lr_factor}], **self.adam
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, self.lr * self.eta_min_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient of each token by its own norm."""
        for token in (self.anomaly_token, self.normal_token):
            nn.utils.clip_grad_norm_(token, self.clip_norm)

    def on_train_epoch_start(self) -> None:
        """Seed the dropout masks by epoch and process, so that a resumed fit continues alike."""
        super().on_train_epoch_start()
        torch.manual_seed(self.seed + self.current_epoch + 1_000_003 * self.global_rank)

    # ---- the authors' files

    @classmethod
    def from_author_checkpoint(
        cls,
        path: str | Path,
        backbone: str | Clip = published_backbone,
        trained_on: str | None = None,
        **options: Any,
    ) -> Self:
        """Return the detector that the released training script wrote as ``CLIP.pth``.

        Layers, anchors, hidden width, rows of the position table and image size come out of the file. What it was
        trained on stands in its folder's name only (``train_on_visa``, ``train_on_mvtec``).

        Args:
            path: The file; it is read with ``weights_only=True``.
            backbone: The backbone that it was trained for.
            trained_on: Data set that it was trained on, for example ``"visa"``; by default the folder says it.
            **options: Further arguments of the constructor.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If its layout is another one, the shapes do not fit, or it is a pointer to the file.
        """
        stored = read_author_file(path)
        model = cls(backbone, **{**stored.options, **options})
        stored.check(model.state_dict(), model.clip.name)
        model.load_state_dict(stored.state)
        sources = [{"name": trained_on}] if trained_on is not None else source_of(path)
        model.trained_on = [{**one, **stored.epochs} for one in sources]
        return model


def contrast(tokens: Tensor, margin: float) -> Tensor:
    """Return the mean over images of how far the prototypes' cosine lies above minus the margin, scalar >= 0.

    Args:
        tokens: Anomaly and normal prototype, (batch, 2, width).
        margin: In cosines.
    """
    anomaly, normal = F.normalize(tokens.float(), dim=-1).unbind(dim=1)
    return ((anomaly * normal).sum(dim=-1) + margin).clamp_min(0).mean()
