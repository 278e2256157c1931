"""Text prototypes: the mean of a prompt ensemble per state and class."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.clip import Clip
from zsad.prompts import ClassWords, Prompts


def encode_sides(
    clip: Clip,
    prompts: Prompts,
    class_names: Sequence[str],
    words: ClassWords = "raw",
    domains: Sequence[str] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Return per class the raw embeddings of its normal and anomalous prompts, each (prompts, dim).

    ``domains`` take the place of those of the class's group.
    """
    sides = [side for name in class_names for side in prompts.compose(name, words, domains)]
    parts = clip.encode_prompts([text for side in sides for text in side]).split([len(side) for side in sides])
    return list(zip(parts[::2], parts[1::2], strict=True))


def prototypes(
    clip: Clip,
    prompts: Prompts,
    class_names: Sequence[str],
    words: ClassWords = "raw",
    normalise_prompts: bool = True,
    normalise_mean: bool = True,
) -> Tensor:
    """Return one vector per state and class, (classes, 2, dim): row 0 normal, row 1 anomalous.

    Args:
        clip: The backbone.
        prompts: The word lists.
        class_names: Raw class names.
        words: How classes are spelled.
        normalise_prompts: Give each prompt unit length before the mean (AnoVL and WinCLIP do not).
        normalise_mean: Give the mean unit length.
    """
    return average(encode_sides(clip, prompts, class_names, words), normalise_prompts, normalise_mean)


def average(
    sides: Sequence[tuple[Tensor, Tensor]], normalise_prompts: bool = True, normalise_mean: bool = True
) -> Tensor:
    """Return the vectors of :func:`prototypes` from the raw embeddings that :func:`encode_sides` gives."""
    rows = []
    for pair in sides:
        rows.append(torch.stack([(F.normalize(side, dim=-1) if normalise_prompts else side).mean(0) for side in pair]))
    text = torch.stack(rows).float()
    return F.normalize(text, dim=-1) if normalise_mean else text
