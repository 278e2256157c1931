"""AdaCLIP: hybrid prompts in both towers, linear layers per block, and a score that looks at the worst patches too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.backbone import Position
from zsad.clip.loading import Activation
from zsad.functional.maps import similarity, upsample
from zsad.methods.adaclip.author import AUTHOR_DATA, read_adaclip
from zsad.methods.adaclip.fusion import CLUSTERINGS, Backend, Draws, Variant, fuse
from zsad.methods.adaclip.parts import Branch, PromptCast, PromptType
from zsad.methods.adaclip.towers import PromptedTowers
from zsad.methods.author_files import AuthorState
from zsad.methods.authors import FromAuthors
from zsad.methods.layers import chosen_layers
from zsad.methods.pixel_losses import PixelLosses
from zsad.prompts import ClassWords, load_prompts
from zsad.types import Batch, Context, ImageProtocol, Prediction


class Seen(NamedTuple):
    """What the towers saw in a batch."""

    cls: Tensor
    """(batch, dim): the prompted tower's image embedding, not normalised."""
    global_feature: Tensor
    """(batch, dim): the same after its linear layer, of unit length."""
    patches: Tensor
    """(layers, batch, patches, dim): projected patch tokens, of unit length."""
    text: Tensor
    """(batch, 2, dim): text vectors of each image, of unit length, normal before anomalous."""
    logits: Tensor
    """(layers, batch, patches, 2): cosines over the temperature."""


class AdaCLIP(PromptedTowers, FromAuthors, PixelLosses):
    """Prompt tokens in both towers, a learned part plus one that follows from the image; four linear layers; HSF.

    The map compares the projected patch tokens of four blocks with text vectors that depend on the image; the score
    compares the class token, mixed with a mean of the most anomalous patches (*hybrid semantic fusion*).
    Source: Cao et al., ECCV 2024 (arXiv 2407.15795), in the form of the released code.

    Args:
        backbone: Backbone name or a loaded one.
        variant: ``"released"`` is what made the authors' weights; ``"paper"`` sets ``hsf_variant="paper"`` and
            ``dice_over="images"``. Published numbers belong to neither for certain.
        length: Prompt tokens per block. In the text tower they must end before the shortest prompt does, 7 at most.
        depth: Prompted blocks, capped at the depths of both towers; the text tower's first block never is.
        branch: Towers with prompts: ``"VL"``, ``"V"`` (image), ``"L"`` (text) or ``""``.
        prompt_type: ``"S"`` static, ``"D"`` dynamic, ``"SD"`` their sum.
        layers: Blocks whose patch tokens are compared, from 1; None takes the four quarters of the depth.
        prompts: Packaged prompt list or YAML file.
        class_words: How class names are spelled; the released code turns hyphens into spaces and keeps underscores.
        temperature: Divisor of the cosines.
        hsf: Whether the score looks at the most anomalous patches; without, it is the class token's alone.
        hsf_variant: See :func:`~zsad.methods.adaclip.fusion.fuse`; None follows ``variant``.
        clusters: Of HSF; 0 turns it off.
        tokens_per_cluster: Patches in HSF per cluster.
        alpha: Share of the patches' vector in the score.
        hsf_random: ``"per_image"``: fresh random numbers for every image, so that its score hangs on nothing else.
            ``"sequential"``: one generator for all images in their order, as released: a score then depends on how many
            images came before.
        hsf_seed: Of the clustering.
        hsf_backend: ``"torch"``: own k-means. ``"sklearn"``: scikit-learn's, as released. ``"mean"``: no clustering,
            all chosen patches alike; differs by no more than two seeds do.
        prompt_cast: ``"float16"`` rounds prompt tokens as the released code does.
        dice_over: What the dice loss averages over: ``"rows"`` of each image, which the released code does by accident
            with its batch of one and which made its weights, or ``"images"``.
        lr: AdamW's constant rate.
        betas: Its betas.
        eps: Its small number.
        weight_decay: Its weight decay.
        activation: Exact GELU in both towers, the published mismatch with OpenAI's weights.
        position: How the position table is resized: bicubic without antialiasing.
        sigma: Of the Gaussian on the map, in pixels.
        **kwargs: Options of :class:`~zsad.methods.pixel_losses.PixelLosses`.

    Raises:
        ValueError: If an option is out of range for the backbone.
    """

    published_backbone = "ViT-L-14-336/openai"
    published_protocol = ImageProtocol(size=518)
    published_epochs = 5
    published_batch_size = 1
    author_data = AUTHOR_DATA

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        variant: Literal["released", "paper"] = "released",
        length: int = 5,
        depth: int = 4,
        branch: Branch = "VL",
        prompt_type: PromptType = "SD",
        layers: Sequence[int] | None = None,
        prompts: str = "adaclip",
        class_words: ClassWords = "hyphen_to_space",
        temperature: float = 0.01,
        hsf: bool = True,
        hsf_variant: Variant | None = None,
        clusters: int = 20,
        tokens_per_cluster: int = 5,
        alpha: float = 0.2,
        hsf_random: Literal["per_image", "sequential"] = "per_image",
        hsf_seed: int = 111,
        hsf_backend: Backend = "torch",
        prompt_cast: PromptCast = "none",
        dice_over: Literal["rows", "images"] | None = None,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.5, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        activation: Activation | None = "gelu",
        position: Position = "bicubic_plain",
        sigma: float = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, activation=activation, position=position, sigma=sigma, **kwargs)
        paper = variant == "paper"
        self.hsf_variant: Variant = hsf_variant or ("paper" if paper else "released")
        self.dice_over = dice_over or ("images" if paper else "rows")
        choices: dict[str, tuple[object, tuple[object, ...]]] = {
            "variant": (variant, ("released", "paper")),
            "branch": (branch, ("VL", "V", "L", "")),
            "prompt_type": (prompt_type, ("SD", "S", "D")),
            "hsf_variant": (self.hsf_variant, ("released", "paper")),
            "hsf_random": (hsf_random, ("per_image", "sequential")),
            "hsf_backend": (hsf_backend, tuple(CLUSTERINGS)),
            "prompt_cast": (prompt_cast, ("none", "float16")),
            "dice_over": (self.dice_over, ("rows", "images")),
        }
        for name, (given, known) in choices.items():
            if given not in known:
                raise ValueError(f"{name} must be one of {list(known)}, got {given!r}.")
        for name, number in {"length": length, "depth": depth, "tokens_per_cluster": tokens_per_cluster}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}.")
        if clusters < 0:
            raise ValueError(f"clusters must be >= 0, got {clusters}; 0 turns HSF off.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is a share in [0, 1], got {alpha}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}.")
        if hsf_backend == "mean" and self.hsf_variant == "paper":
            raise ValueError("hsf_backend='mean' has no clusters, among which hsf_variant='paper' would choose.")
        self.layers = chosen_layers(self.clip, layers)
        self.temperature = temperature
        self.hsf = hsf and clusters > 0
        self.clusters, self.tokens_per_cluster, self.alpha = clusters, tokens_per_cluster, alpha
        self.cluster = CLUSTERINGS[hsf_backend]
        self.by_position = hsf_backend == "torch" and hsf_random == "per_image"
        self.draws = Draws(hsf_backend, hsf_seed, hsf_random == "sequential")
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.set_prompts(load_prompts(prompts), class_words, length, depth, branch, prompt_type, prompt_cast)

    # ---- what the towers see

    def see(self, image: Tensor, class_names: Sequence[str], text: Tensor | None = None) -> Seen:
        """Return what both towers see, with its graph.

        Args:
            image: Normalised images, (batch, 3, height, width).
            class_names: Class of each image.
            text: (batch, 2, dim) where it does not depend on the image and is at hand already.
        """
        visual, textual = self.dynamic_prompts(image)
        cls, tokens = self.image_tokens(image, visual)
        if self.text_follows_image or text is None:
            unique = list(class_names) if self.text_follows_image else list(dict.fromkeys(class_names))
            text = self.text_vectors(unique, textual)
            if not self.text_follows_image:
                text = text[[unique.index(name) for name in class_names]]
        layers = zip(self.patch_token_layer.head, tokens.values(), strict=True)
        patches = torch.stack([F.normalize(layer(state[:, 1:]).float(), dim=-1) for layer, state in layers])
        logits = torch.stack([similarity(layer, text) for layer in patches]) / self.temperature
        return Seen(cls, F.normalize(self.cls_token_layer.head[0](cls).float(), dim=-1), patches, text, logits)

    # ---- prediction

    def image_feature(self, seen: Seen) -> Tensor:
        """Return the class token's feature, mixed with that of the most anomalous patches, (batch, dim)."""
        if not self.hsf:
            return seen.global_feature
        sizes = (self.clusters, self.tokens_per_cluster)
        regions = [
            fuse(patches, logits, *sizes, self.cluster, self.draws.next(), self.hsf_variant, self.by_position)
            for patches, logits in zip(seen.patches.unbind(1), seen.logits.unbind(1), strict=True)
        ]
        return F.normalize(self.alpha * torch.stack(regions) + (1 - self.alpha) * seen.global_feature, dim=-1)

    def image_probability(self, seen: Seen) -> Tensor:
        """Return the probabilities of (normal, anomalous) of each image, (batch, 2)."""
        return (similarity(self.image_feature(seen), seen.text) / self.temperature).softmax(dim=-1)

    def pixel_probability(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (batch, patches, 2) as probabilities per pixel, (batch, 2, height, width): enlarged first."""
        grid = (size[0] // self.clip.patch_size, size[1] // self.clip.patch_size)
        return upsample(logits.transpose(1, 2).unflatten(2, grid), size, align_corners=True).softmax(dim=1)

    def export_obstacle(self) -> str | None:
        """Return why there is no graph."""
        return "its text depends on the image and its score on clusters of patches (k-means); serve it with torch."

    @torch.no_grad()
    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the probability of the layers' mean logits per pixel, and the image's probability of "anomalous"."""
        seen = self.see(image, context.class_names, text)
        anomaly_map = self.pixel_probability(seen.logits.mean(dim=0), (image.shape[-2], image.shape[-1]))[:, 1]
        return Prediction(anomaly_map, self.image_probability(seen)[:, 1])

    # ---- training

    def published_fit(self, source: str) -> tuple[int, dict[str, Any]]:
        """Return epochs and data options; on MVTec AD a fifth of the images are mosaics of four."""
        return self.published_epochs, {"stitch": 0.2} if source == "mvtec_ad" else {}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the image's focal loss and, per layer, focal and two dice losses; and each term.

        Raises:
            ValueError: If masks are missing.
        """
        self.require(batch, "gt_mask")
        mask = batch["gt_mask"].bool()
        label = batch.get("gt_label", mask.flatten(1).any(dim=1))
        names = batch["class_name"]
        seen = self.see(batch["image"], names, None if self.text_has_prompts else self.text(names))
        pair = self.image_probability(seen)[:, :, None, None]
        losses = {"image": self.focal(pair, label[:, None, None])}
        regions = mask.flatten(0, 1)[:, None] if self.dice_over == "rows" else mask
        for number, logits in zip(self.layers, seen.logits, strict=True):
            probs = self.pixel_probability(logits, (mask.shape[-2], mask.shape[-1]))
            losses[f"focal.l{number}"] = self.focal(probs, mask)
            for name, side, inside in (("abnormal", 1, regions), ("normal", 0, ~regions)):
                losses[f"dice_{name}.l{number}"] = self.dice(probs[:, side].reshape(inside.shape), inside)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW with a constant rate on everything that is learned."""
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(learned, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)

    def _start(self) -> None:
        super()._start()
        if self._trainer is None or self.trainer.state.fn != "fit":
            self.draws.restart()

    def on_predict_epoch_start(self) -> None:
        """Begin the random numbers of the clustering anew."""
        super().on_predict_epoch_start()
        self.draws.restart()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where the sequential random numbers stand."""
        super().on_save_checkpoint(checkpoint)
        if (state := self.draws.state()) is not None:
            checkpoint["zsad"]["hsf_stream"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the sequential random numbers where they stood."""
        super().on_load_checkpoint(checkpoint)
        self.draws.restore(checkpoint.get("zsad", {}).get("hsf_stream"))

    @classmethod
    def read_author_file(cls, path: str | Path) -> AuthorState:
        """Return prompts and linear layers; length, depth, towers and type of the prompts follow from the file.

        Of purely dynamic prompts it says the length alone.
        """
        return read_adaclip(path)
