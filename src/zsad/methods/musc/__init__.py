"""MuSc: a folder without labels, scored by comparing its images."""

from zsad.methods.musc.method import MuSc
from zsad.methods.musc.panel import MissingPanelError, Panel, PanelError
from zsad.methods.musc.transductive import SamePixelsWarning, Transductive

__all__ = ["MissingPanelError", "MuSc", "Panel", "PanelError", "SamePixelsWarning", "Transductive"]
