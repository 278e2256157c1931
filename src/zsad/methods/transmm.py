"""TransMM: not a detector but an explanation, the relevance of each patch for CLIP's similarity with a text."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.relevance import Relevance, Target, margin_target, relevance, text_target
from zsad.functional.maps import probability, similarity, to_grid, unit_range, upsample
from zsad.methods.base import Method
from zsad.methods.prototypes import prototypes
from zsad.prompts import ClassWords, load_prompts
from zsad.types import Context, ImageProtocol, Prediction


class TransMM(Method):
    """Ask which patches made the class token similar to an "anomalous" text; the score is plain CLIP's.

    The rule is that of the released notebook (Chefer et al., arXiv 2103.15679). As a detector it is a baseline row of
    AnoVL's and ALFA's tables whose text, blocks and scaling are not stated: that part is by definition.

    Args:
        backbone: Backbone name or a loaded one.
        text: Text to explain, ``{}`` stands for the class; without ``{}`` it is the same for all classes.
        first_block: Lowest block of the product, from 1; None takes the last one alone, as the notebook does by
            default. The paper multiplies all blocks (1).
        target: ``"text"``: the scaled cosine with ``text``, as released. ``"margin"``: what the image score ranks by,
            the anomalous cosine minus the normal one; ``text`` is then not used. Or a function from class-token
            embeddings (batch, dim) to one number per image.
        normalise: ``"image"`` brings each map to [0, 1] by its own extremes, as the notebook shows it: every image, a
            normal one too, then has a pixel at 1. ``"none"`` leaves the relevance as it is, unbounded.
        temperature: Divisor of the cosines in the image score, and in the target ``"margin"``.
        class_words: How class names are spelled; ``"readable"`` turns underscores into spaces.
        prompts: Packaged prompt list or YAML file of the image score.
        chunk: Images explained at once; None for the whole batch. It bounds memory and changes nothing else.
        **kwargs: Options of :class:`~zsad.methods.base.Method`.

    Raises:
        ValueError: If an option is out of range for the backbone.
    """

    published_backbone = "ViT-B-16-plus-240/laion400m_e32"
    word_options = frozenset({"text"})
    published_protocol = ImageProtocol(size=240)

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        text: str = "a photo of an anomalous {}",
        first_block: int | None = None,
        target: Literal["text", "margin"] | Callable[[Tensor], Tensor] = "text",
        normalise: Literal["image", "none"] = "image",
        temperature: float = 0.07,
        class_words: ClassWords = "readable",
        prompts: str = "clip",
        chunk: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.first_block = self.clip.depth if first_block is None else first_block
        if not 1 <= self.first_block <= self.clip.depth:
            raise ValueError(f"first_block must lie in 1..{self.clip.depth} for '{self.clip.name}', got {first_block}.")
        if not callable(target) and target not in ("text", "margin"):
            raise ValueError(f"target must be 'text', 'margin' or a function, got '{target}'.")
        if normalise not in ("image", "none"):
            raise ValueError(f"normalise must be 'image' or 'none', got '{normalise}'.")
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}.")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1 image, got {chunk}.")
        self.target_text = text
        self.target = target
        self.normalise = normalise
        self.temperature = temperature
        self.class_words: ClassWords = class_words
        self.prompts = load_prompts(prompts)
        self.chunk = chunk
        if normalise == "none":
            self.declare_range(None)

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return (classes, 3, dim): normal and anomalous vector of the score, and the text to explain."""
        pair = prototypes(self.clip, self.prompts, class_names, self.class_words)
        words = [self.prompts.word(name, self.class_words) for name in class_names]
        explained = self.clip.encode_prompts([self.target_text.replace("{}", word) for word in words])
        return torch.cat([pair, explained[:, None].to(pair.dtype)], dim=1)

    def class_token_embedding(self, cls: Tensor) -> Tensor:
        """Return what the image score compares with the text, of the class token after the last block, (batch, width).

        Methods that have it can be explained by the relevance of patches.
        """
        return self.clip.project(self.clip.ln_post(cls))

    def relevance(self, image: Tensor, text: Tensor) -> Relevance:
        """Return the relevance of each patch, not normalised, with the embeddings that it was computed from.

        Args:
            image: Normalised images, (batch, 3, height, width).
            text: (batch, 3, dim), as :meth:`text_features` gives them.
        """
        chunk = self.chunk or len(image)
        parts = zip(image.split(chunk), text.split(chunk), strict=True)
        found = [relevance(self.clip, some, self._target(rows), self.first_block) for some, rows in parts]
        return Relevance(*(torch.cat(tensors) for tensors in zip(*found, strict=True)))

    def _target(self, text: Tensor) -> Target:
        if self.target == "text":
            return text_target(text[:, 2], self.clip.logit_scale)
        if self.target == "margin":
            return margin_target(text[:, :2], self.temperature)
        assert callable(self.target)
        return self.target

    def export_obstacle(self) -> str | None:
        """Return why there is no graph."""
        return "its map is made of gradients, which the graph of a forward pass has not; 'clip' has the same score."

    @torch.no_grad()
    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the enlarged relevance, brought to [0, 1] per image if asked for, and CLIP's image score."""
        found = self.relevance(image, text)
        anomaly_map = to_grid(found.patches.float(), self.clip.grid(image))
        anomaly_map = upsample(anomaly_map, (image.shape[-2], image.shape[-1]))
        if self.normalise == "image":
            anomaly_map = unit_range(anomaly_map)
        return Prediction(anomaly_map, probability(similarity(found.embedding, text[:, :2]), self.temperature))
