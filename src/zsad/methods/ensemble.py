"""What methods with one ensemble of hand-written prompts per state have in common."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zsad.clip import Clip
from zsad.methods.base import Method
from zsad.methods.prototypes import prototypes
from zsad.prompts import ClassWords, load_prompts


class PromptEnsemble(Method):
    """A method whose text is one mean of prompts per state and class.

    Args:
        backbone: Backbone name or a loaded one.
        prompts: Packaged prompt list or YAML file.
        temperature: Divisor of the cosines before the softmax.
        class_words: How class names are spelled in prompts; ``"readable"`` turns underscores into spaces.
        normalise_prompts: Give each prompt embedding unit length before the mean.
        align_corners: How the patch map is enlarged.
        **kwargs: Options of :class:`~zsad.methods.base.Method`.
    """

    normalise_text = False
    """Whether the mean gets unit length."""

    def __init__(
        self,
        backbone: str | Clip,
        prompts: str,
        temperature: float = 0.07,
        class_words: ClassWords = "readable",
        normalise_prompts: bool = True,
        align_corners: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.prompts = load_prompts(prompts)
        self.temperature = temperature
        self.class_words: ClassWords = class_words
        self.normalise_prompts = normalise_prompts
        self.align_corners = align_corners

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return the mean prompt embeddings of each class, (classes, 2, dim)."""
        return prototypes(
            self.clip,
            self.prompts,
            class_names,
            self.class_words,
            normalise_prompts=self.normalise_prompts,
            normalise_mean=self.normalise_text,
        )

    def class_token_embedding(self, cls: Tensor) -> Tensor:
        """Return what the image score compares with the text, of the class token after the last block, (batch, width).

        Methods that have it can be explained by the relevance of patches.
        """
        return self.clip.project(self.clip.ln_post(cls))
