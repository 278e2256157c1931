"""VisualAD: two learned tokens that travel through the frozen image tower; no text."""

from zsad.methods.visualad.method import VisualAD

__all__ = ["VisualAD"]
