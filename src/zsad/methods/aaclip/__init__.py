"""AA-CLIP: the method, its adapters and its evaluation rule."""

from zsad.methods.aaclip.method import AACLIP

__all__ = ["AACLIP"]
