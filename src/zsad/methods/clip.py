"""CLIP: the plain baseline, one prompt per state, the same head for the class token and every patch."""

from typing import Any

from torch import Tensor

from zsad.clip import Clip
from zsad.functional.maps import probability, similarity, to_grid, upsample
from zsad.methods.ensemble import PromptEnsemble
from zsad.types import Context, ImageProtocol, Prediction


class CLIP(PromptEnsemble):
    """Compare the class token and every last-block patch token with "normal" and "anomalous" text vectors.

    A pixel AUROC *below* one half is what the papers report for this baseline; the sign is not flipped.
    No code was released for it: fidelity is by definition (baselines of AnomalyCLIP, arXiv 2310.18961, tables 1 and 2).

    Args:
        backbone: Backbone name or a loaded one.
        prompts: Packaged prompt list or YAML file.
        normalise_text: Give the mean unit length.
        **kwargs: Options of :class:`~zsad.methods.ensemble.PromptEnsemble`.
    """

    published_backbone = "ViT-L-14-336-quickgelu/openai"
    published_protocol = ImageProtocol(size=518)

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        prompts: str = "clip",
        normalise_text: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, prompts, **kwargs)
        self.normalise_text = normalise_text

    def image_tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the global embedding (batch, dim) and the patch embeddings (batch, patches, dim), not normalised."""
        tokens = self.clip.encode_image(image, layers=(self.clip.depth,))
        return tokens.cls, tokens.patches[self.clip.depth]

    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the probability of "anomalous" for the image and for every pixel: softmax first, then enlarged."""
        cls, patches = self.image_tokens(image)
        patch_map = to_grid(probability(similarity(patches, text), self.temperature), self.clip.grid(image))
        return Prediction(
            anomaly_map=upsample(patch_map, (image.shape[-2], image.shape[-1]), self.align_corners),
            pred_score=probability(similarity(cls, text), self.temperature),
        )
