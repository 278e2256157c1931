"""CLIP-AC: plain CLIP with an ensemble of ImageNet templates, the baseline of AnomalyCLIP's tables."""

from dataclasses import replace
from typing import Any, Literal

import open_clip

from zsad.clip import Clip
from zsad.methods.clip import CLIP


class CLIPAC(CLIP):
    """Score like :class:`CLIP`, with "normal" and "anomalous" put into the templates recommended for ImageNet.

    WinCLIP, AnoVL and ALFA use the same name for a pair of prompts on ViT-B/16+ at 240 px: their rows are not this one.
    No code was released for it: fidelity is by definition (AnomalyCLIP, arXiv 2310.18961, tables 1 and 2).

    Args:
        backbone: Backbone name or a loaded one.
        prompts: Packaged prompt list or YAML file; its templates are those of ``templates="imagenet7"``.
        templates: The 7 recommended templates, or all 80.
        **kwargs: Options of :class:`CLIP`.
    """

    def __init__(
        self,
        backbone: str | Clip = CLIP.published_backbone,
        prompts: str = "clip_ac",
        templates: Literal["imagenet7", "imagenet80"] = "imagenet7",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, prompts, **kwargs)
        if templates == "imagenet80":
            self.prompts = replace(self.prompts, templates=[fill("{}") for fill in open_clip.OPENAI_IMAGENET_TEMPLATES])
        elif templates != "imagenet7":
            raise ValueError(f"templates must be 'imagenet7' or 'imagenet80', got '{templates}'.")
