"""MVFA: bottleneck adapters in the image tower give patch tokens for segmentation and for detection."""

from zsad.methods.mvfa.method import MVFA

__all__ = ["MVFA"]
