"""Why an image has its score: relevance of its patches, for every method that compares the class token with text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsad.clip.relevance import margin_target, relevance
from zsad.functional.maps import to_grid, unit_range, upsample
from zsad.methods import METHODS, Method, Prediction


class Explained(nn.Module):
    """A method seen through its explanation: its maps are relevance, in [0, 1] per image, its scores its own.

    What is explained is the margin that the image score ranks by, the cosine with the anomalous text minus that with
    the normal one, over the temperature. Scores that look at normal references as well are explained without these.
    Whatever else a :class:`~zsad.inference.Predictor` asks, the method answers.

    Args:
        method: Any method whose image score is the class token's.
        first_block: Lowest block that takes part, from 1; None takes the last one alone.

    Raises:
        ValueError: The method's image score is computed otherwise, or there is no such block.
    """

    def __init__(self, method: Method, first_block: int | None = None) -> None:
        super().__init__()
        if not hasattr(method, "class_token_embedding"):
            able = [name for name, kind in METHODS.items() if hasattr(kind, "class_token_embedding")]
            raise ValueError(
                f"The image score of {type(method).__name__} is not the class token's alone, so that there is no "
                f"relevance of its patches: its anomaly map is the explanation. Of the methods, {able} have one."
            )
        if first_block is not None and not 1 <= first_block <= method.clip.depth:
            raise ValueError(
                f"first_block must lie in 1..{method.clip.depth} for '{method.clip.name}', got {first_block}."
            )
        self.method = method
        self.first_block = first_block
        self.evaluator = type(method.evaluator)(score_range=(0.0, 1.0))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("method"), name)

    @torch.no_grad()
    def forward(
        self, image: Tensor, class_names: Sequence[str], image_paths: Sequence[str] | None = None
    ) -> Prediction:
        """Return relevance maps (batch, height, width) and zero-shot scores (batch,), as a method does."""
        method: Any = self.method
        text = method.text(class_names)
        found = relevance(
            method.clip,
            image,
            margin_target(text[:, :2], float(method.temperature)),
            self.first_block,
            head=method.class_token_embedding,
        )
        maps = to_grid(found.patches.float(), method.clip.grid(image))
        maps = unit_range(upsample(maps, (image.shape[-2], image.shape[-1])))
        return Prediction(maps, found.scalar.float().sigmoid())
