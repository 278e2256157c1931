"""VAND (APRIL-GAN): trained linear layers map patch tokens of four blocks into the joint space of CLIP."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from zsad.clip import Clip
from zsad.clip.loading import Activation
from zsad.functional.maps import probability, similarity, to_grid, upsample
from zsad.methods.adam import AdamTrained
from zsad.methods.author_files import AuthorState, read_vand
from zsad.methods.authors import FromAuthors
from zsad.methods.evaluation import ClassRule
from zsad.methods.layers import chosen_layers
from zsad.methods.pixel_losses import PixelLosses
from zsad.methods.prototypes import prototypes
from zsad.prompts import ClassWords, load_prompts
from zsad.types import Batch, Context, ImageProtocol, Prediction


class VAND(FromAuthors, PixelLosses, AdamTrained):
    """Train one linear layer per block on an auxiliary data set; compare projected patches with a prompt ensemble.

    Follows the released code (ByChelsea/VAND-APRIL-GAN): exact GELU in OpenAI's QuickGELU weights, logits enlarged
    before the softmax, the sum of the layers' maps, an image score of the text alone. With references (see
    :class:`~zsad.methods.few_shot.FewShot`) the maps receive the cosine distances to the nearest normal patch.

    Paper: Chen et al., arXiv 2305.17382.

    Args:
        backbone: Backbone name or a loaded one.
        layers: Blocks, from 1, whose raw patch tokens are used; None takes the quarters of the depth, which are the
            published 6, 12, 18 and 24 of 24.
        prompts: Packaged prompt list or YAML file.
        class_words: How class names are spelled in prompts; the released code keeps underscores.
        temperature: Divisor of the cosines.
        lr: Learning rate of Adam, constant.
        shot_seed: Decides which references are drawn, with replacement; the released few-shot script takes ``shots=4``.
        few_shot_score: Image score of the evaluation with references. ``"text"``: as without. ``"class_minmax"``: the
            published rule, its mean with the maximum of the map brought to [0, 1] by the class's least and greatest
            maximum; a score then depends on the whole test set, so it exists at the end of validation, test and
            benchmark.
        activation: The published mismatch; ``"quick_gelu"`` is what OpenAI's weights were trained with.
        **kwargs: Options of :class:`~zsad.methods.pixel_losses.PixelLosses` and
            :class:`~zsad.methods.adam.AdamTrained`.

    Raises:
        ValueError: If an option is out of range for the backbone.
    """

    published_backbone = "ViT-L-14-336/openai"
    published_protocol = ImageProtocol(size=518)
    published_epochs = 15  # on VisA; 3 on MVTec AD, with data option stitch=0.2
    published_batch_size = 8
    draw_with_replacement = True
    few_shot_in_score = True
    free_options = frozenset({"few_shot_score"})
    author_data: ClassVar[Mapping[str, Sequence[str]]] = {
        "mvtec_pretrained": ("mvtec_ad",),
        "visa_pretrained": ("visa",),
    }

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        layers: Sequence[int] | None = None,
        prompts: str = "vand",
        class_words: ClassWords = "raw",
        temperature: float = 0.01,
        lr: float = 1e-3,
        shot_seed: int = 42,
        few_shot_score: Literal["text", "class_minmax"] = "text",
        activation: Activation | None = "gelu",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, activation=activation, shot_seed=shot_seed, **kwargs)
        self.layers = chosen_layers(self.clip, layers)
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}.")
        if few_shot_score not in ("text", "class_minmax"):
            raise ValueError(f"few_shot_score must be 'text' or 'class_minmax', got '{few_shot_score}'.")
        self.prompts = load_prompts(prompts)
        self.class_words: ClassWords = class_words
        self.temperature = temperature
        self.lr = lr
        self.few_shot_score = few_shot_score
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.fc = nn.ModuleList(nn.Linear(self.clip.width, self.clip.dim) for _ in self.layers)
        self._declare_range()

    # ---- prediction

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return the state vectors of each class, (classes, 2, dim), of unit length."""
        return prototypes(self.clip, self.prompts, class_names, self.class_words)

    def class_token_embedding(self, cls: Tensor) -> Tensor:
        """Return what the image score compares with the text, of the class token after the last block, (batch, width).

        Methods that have it can be explained by the relevance of patches.
        """
        return self.clip.project(self.clip.ln_post(cls))

    def image_tokens(self, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the global embedding (batch, dim) and the blocks' raw patch tokens, each (batch, patches, width)."""
        last, kept = self.clip.run_image(self.clip.embed_image(image), keep=self.layers)
        cls = self.clip.project(self.clip.ln_post(last[:, 0]))
        return cls, {number: state[:, 1:] for number, state in kept.items()}

    def layer_probability(self, index: int, tokens: Tensor, text: Tensor, size: tuple[int, int]) -> Tensor:
        """Return probabilities of (normal, anomalous) per pixel, (batch, 2, height, width): enlarged, then softmax.

        Args:
            index: Which linear layer, from 0.
            tokens: Raw patch tokens of its block, (batch, patches, width).
            text: Text vectors of each image's class, (batch, 2, dim).
            size: Height and width of the images.
        """
        cosines = similarity(self.fc[index](tokens), text)
        logits = (cosines / self.temperature).transpose(1, 2).unflatten(2, self._grid(size))
        return upsample(logits, size, align_corners=True).softmax(dim=1)

    def text_map(self, tokens: dict[int, Tensor], text: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the sum of the layers' maps of "anomalous", (batch, height, width)."""
        layers = enumerate(tokens.values())
        return torch.stack([self.layer_probability(i, one, text, size)[:, 1] for i, one in layers]).sum(dim=0)

    def distance_maps(
        self, tokens: dict[int, Tensor], class_names: Sequence[str], size: tuple[int, int]
    ) -> dict[int, Tensor]:
        """Return per layer the enlarged cosine distance to the nearest normal patch, (batch, height, width)."""
        return {
            number: upsample(
                to_grid(self.memory.distance(f"layer{number}", one, class_names), self._grid(size)),
                size,
                align_corners=True,
            )
            for number, one in tokens.items()
        }

    @torch.no_grad()
    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the sum of the layers' maps, and the probability of "anomalous" of the global embedding."""
        cls, tokens = self.image_tokens(image)
        size = (image.shape[-2], image.shape[-1])
        anomaly_map = self.text_map(tokens, text, size)
        if self.is_few_shot(context.class_names):
            anomaly_map = anomaly_map + torch.stack(
                list(self.distance_maps(tokens, context.class_names, size).values())
            ).sum(0)
        return Prediction(anomaly_map, probability(similarity(cls, text), self.temperature))

    def reference_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return raw patch tokens, ``"layer6"`` and so on -> (batch, patches, width)."""
        return {f"layer{number}": tokens for number, tokens in self.image_tokens(image)[1].items()}

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // self.clip.patch_size, size[1] // self.clip.patch_size

    # ---- evaluation

    def _declare_range(self) -> None:
        highest = len(self.layers) * (3.0 if self.memory.classes else 1.0)  # a layer's distances lie in [0, 2]
        self.declare_range(0.0, highest)

    def draw_references(self, source: Any) -> None:
        """Replace what an earlier draw fetched, and declare the range of the maps, which references widen."""
        super().draw_references(source)
        self._declare_range()

    def class_rule(self) -> ClassRule | None:
        """Return the published few-shot scores, if they are asked for and there are references."""
        return class_minmax if self.few_shot_score == "class_minmax" and self.memory.classes else None

    # ---- training

    @torch.no_grad()
    def frozen_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return the blocks' raw patch tokens ``patches``, (batch, layers, patches, width)."""
        return {"patches": torch.stack(list(self.image_tokens(image)[1].values()), dim=1)}

    def published_fit(self, source: str) -> tuple[int, dict[str, Any]]:
        """Return epochs and data options; on MVTec AD 3 epochs with mosaics of four pictures, for a fifth of them."""
        return (3, {"stitch": 0.2}) if source == "mvtec_ad" else (self.published_epochs, {})

    def cache_settings(self) -> dict[str, Any]:
        """Return the options that decide the patch tokens."""
        return {"layers": self.layers}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the sum over the layers of focal and dice loss, and both per layer; there is no image-level loss.

        Raises:
            ValueError: If masks are missing.
        """
        self.require(batch, "gt_mask")
        features = self.features_of(batch)
        mask, text = batch["gt_mask"], self.text(batch["class_name"])
        self.clip.grid(mask)  # says so if the size does not fit
        losses = {}
        for index, number in enumerate(self.layers):
            probs = self.layer_probability(index, features["patches"][:, index], text, (mask.shape[-2], mask.shape[-1]))
            losses[f"focal.l{number}"] = self.focal(probs, mask)
            losses[f"dice.l{number}"] = self.dice(probs[:, 1], mask)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    # ---- the authors' files

    @classmethod
    def read_author_file(cls, path: str | Path) -> AuthorState:
        """Return the linear layers of ``trainable_linearlayer``: ``fc.0.weight``, ``fc.0.bias`` and so on."""
        return read_vand(path)


def class_minmax(text_score: Tensor, map_max: Tensor, least: float, greatest: float) -> Tensor:
    """Return VAND's few-shot image scores of one class: the mean of text score and normalised maximum of the map.

    Args:
        text_score: Probability of "anomalous" of the text, (images,).
        map_max: Maximum of each image's map, (images,).
        least: Least maximum among all images of the class.
        greatest: Greatest of them; if it equals the least, the second term is 0.
    """
    spread = greatest - least
    return 0.5 * (text_score + ((map_max - least) / spread if spread > 0 else torch.zeros_like(map_max)))
