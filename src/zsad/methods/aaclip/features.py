"""AA-CLIP's image side: features of both stages."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zsad.clip.blocks import TwoPath, adapters, learned, vv_tower
from zsad.methods.aaclip.adapters import (
    ImageAdapter,
    unit,
)
from zsad.methods.aaclip.anchors import Anchors


class Features(Anchors):
    """What each stage compares with the anchors."""

    image_adapter: ImageAdapter
    lambda_image: float
    levels: tuple[int, ...]
    vv_blocks: int
    vv_axis: Literal["batch", "token"]

    def image_features(self, image: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """Return adapted features of the second stage.

        Args:
            image: Normalised images, (batch, 3, height, width).

        Returns:
            Level -> unit-length patch features (batch, patches, dim), and the detection feature (batch, dim): the mean
            of unit-length tokens of the last block, itself shorter than 1. The class token is not used.
        """
        step = adapters(list(self.image_adapter.layer_adapters), self.lambda_image)
        x, kept = self.clip.run_image(self.clip.embed_image(image), step, self.levels)
        dtype = self.clip.dtype
        patches = {
            level: unit(learned(project, self.clip.ln_post(kept[level][:, 1:]), dtype))
            for level, project in zip(self.levels, self.image_adapter.seg_proj, strict=True)
        }
        return patches, unit(learned(self.image_adapter.det_proj, self.clip.ln_post(x[:, 1:]), dtype)).mean(dim=1)

    @torch.no_grad()
    def stage1_features(self, image: Tensor, levels: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """Return what the first stage compares with the anchors; no adapter takes part.

        Args:
            image: Normalised images, (batch, 3, height, width).
            levels: Image blocks to read.

        Returns:
            Level -> unit patch features of the V-V tower plus the unit class embedding of the ordinary tower, not
            normalised again, (batch, patches, dim); and the class embedding before normalisation, (batch, dim).
        """
        step = vv_tower(self.clip.depth - self.vv_blocks + 1, self.vv_axis)
        last, kept = self.clip.run_image(self.clip.embed_image(image), step, levels)
        main = last.main if isinstance(last, TwoPath) else last
        cls = self.clip.project(self.clip.ln_post(main[:, 0]))
        patches = {}
        for level, state in kept.items():
            side = state.side[0] if isinstance(state, TwoPath) else state
            patches[level] = unit(self.clip.project(self.clip.ln_post(side[:, 1:]))) + unit(cls)[:, None]
        return patches, cls
