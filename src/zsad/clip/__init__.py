"""The CLIP backbone: loading, one loop over the blocks, and the steps that methods put into it."""

from zsad.clip.backbone import Clip, UnsupportedModelError
from zsad.clip.loading import BACKBONES, ActivationMismatchError, WeightsError, load_clip

__all__ = ["BACKBONES", "ActivationMismatchError", "Clip", "UnsupportedModelError", "WeightsError", "load_clip"]
