"""The method registry: every detector by name."""

import difflib

from zsad.datamodules.outside import Registry
from zsad.methods.aaclip.method import AACLIP
from zsad.methods.adaclip.method import AdaCLIP
from zsad.methods.alfa.method import ALFA
from zsad.methods.anomalyclip import AnomalyCLIP
from zsad.methods.anovl.method import AnoVL
from zsad.methods.base import Method
from zsad.methods.clip import CLIP
from zsad.methods.clipac import CLIPAC
from zsad.methods.coop import CoOp
from zsad.methods.maskclip import MaskCLIP
from zsad.methods.musc import MuSc
from zsad.methods.mvfa.method import MVFA
from zsad.methods.transmm import TransMM
from zsad.methods.vand import VAND
from zsad.methods.visualad.method import VisualAD
from zsad.methods.winclip import WinCLIP
from zsad.types import Batch, Context, Prediction
from zsad.weights.checkpoints import CheckpointError

METHODS: dict[str, type[Method]] = {
    "clip": CLIP,
    "clipac": CLIPAC,
    "maskclip": MaskCLIP,
    "winclip": WinCLIP,
    "musc": MuSc,
    "vand": VAND,
    "coop": CoOp,
    "anomalyclip": AnomalyCLIP,
    "anovl": AnoVL,
    "alfa": ALFA,
    "aaclip": AACLIP,
    "visualad": VisualAD,
    "adaclip": AdaCLIP,
    "mvfa": MVFA,
    "transmm": TransMM,
}
"""Name -> class, in the order of the tables."""

REGISTRY = Registry("zsad.methods", Method, METHODS)  # type: ignore[type-abstract]
"""These and the methods of other packages."""

__all__ = [
    "AACLIP",
    "ALFA",
    "CLIP",
    "CLIPAC",
    "METHODS",
    "MVFA",
    "VAND",
    "AdaCLIP",
    "AnoVL",
    "AnomalyCLIP",
    "Batch",
    "CheckpointError",
    "CoOp",
    "Context",
    "MaskCLIP",
    "Method",
    "MuSc",
    "Prediction",
    "TransMM",
    "VisualAD",
    "WinCLIP",
    "get_method",
    "list_methods",
    "outside_methods",
]


def outside_methods() -> dict[str, str]:
    """Return the methods that installed packages offer, name -> ``"package.module:Class"``; nothing is imported."""
    return REGISTRY.outside()


def list_methods() -> list[str]:
    """Return the names of all methods, in the order of the tables, then those of the entry points ``zsad.methods``."""
    return REGISTRY.names()


def get_method(name: str, by_hand: bool = False) -> type[Method]:
    """Return the class of a method by its name; case, hyphens and underscores do not matter.

    Args:
        name: Of the registry, of an entry point in the group ``zsad.methods``, or ``"package.module.Class"``.
        by_hand: Whether somebody typed the name; a dotted path is imported only then.

    Raises:
        ValueError: If there is no such method; the message lists the known ones, the nearest first.
    """
    key = name.lower().replace("-", "").replace("_", "")
    if key not in METHODS:
        if (found := REGISTRY.find_outside(name, by_hand)) is not None:
            return found
        near = difflib.get_close_matches(key, METHODS, n=len(METHODS), cutoff=0.0)
        raise ValueError(f"Unknown method '{name}'. Did you mean '{near[0]}'? Known methods, nearest first: {near}.")
    return METHODS[key]
