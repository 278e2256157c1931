"""Benchmarks and users' own images as Lightning data modules."""

import difflib

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.bmad import BMADBrain, BMADLiver, BMADRetina
from zsad.datamodules.brain import Br35H, BrainMRI, HeadCT
from zsad.datamodules.btad import BTAD
from zsad.datamodules.checks import DatasetCountError, DatasetNotFoundError, SameSourceError
from zsad.datamodules.colon_train import ColonTrain
from zsad.datamodules.covid19 import COVID19
from zsad.datamodules.dagm import DAGM
from zsad.datamodules.dataset import AnomalyDataset, DataWarning, MaskSizeError, Skipped
from zsad.datamodules.dtd_synthetic import DTDSynthetic
from zsad.datamodules.folder import Folder
from zsad.datamodules.isic import ISIC
from zsad.datamodules.joined import Joined
from zsad.datamodules.mpdd import MPDD
from zsad.datamodules.mvtec import MVTecAD
from zsad.datamodules.mvtec_ad2 import MVTecAD2
from zsad.datamodules.outside import Registry
from zsad.datamodules.pairs import check_pair
from zsad.datamodules.polyp import CVC300, CVCClinicDB, CVCColonDB, Endo, Kvasir
from zsad.datamodules.real_iad import RealIAD
from zsad.datamodules.sdd import SDD
from zsad.datamodules.synthetic import Synthetic
from zsad.datamodules.tn3k import TN3K
from zsad.datamodules.visa import VisA
from zsad.types import Record

DATAMODULES: dict[str, type[BenchmarkDataModule]] = {
    "mvtec_ad": MVTecAD,
    "visa": VisA,
    "mpdd": MPDD,
    "btad": BTAD,
    "sdd": SDD,
    "dagm": DAGM,
    "dtd_synthetic": DTDSynthetic,
    "isic": ISIC,
    "cvc_clinicdb": CVCClinicDB,
    "cvc_colondb": CVCColonDB,
    "kvasir": Kvasir,
    "endo": Endo,
    "tn3k": TN3K,
    "cvc_300": CVC300,
    "headct": HeadCT,
    "brainmri": BrainMRI,
    "br35h": Br35H,
    "covid19": COVID19,
    "bmad_brain": BMADBrain,
    "bmad_liver": BMADLiver,
    "bmad_retina": BMADRetina,
    "colon_train": ColonTrain,
    "mvtec_ad2": MVTecAD2,
    "real_iad": RealIAD,
    "folder": Folder,
    "synthetic": Synthetic,
}
"""Key -> class, in the order of the papers' tables."""

REGISTRY = Registry("zsad.datamodules", BenchmarkDataModule, DATAMODULES)  # type: ignore[type-abstract]
"""These and the data modules of other packages."""

__all__ = [
    "BTAD",
    "COVID19",
    "CVC300",
    "DAGM",
    "DATAMODULES",
    "ISIC",
    "MPDD",
    "SDD",
    "TN3K",
    "AnomalyDataset",
    "BMADBrain",
    "BMADLiver",
    "BMADRetina",
    "BenchmarkDataModule",
    "Br35H",
    "BrainMRI",
    "CVCClinicDB",
    "CVCColonDB",
    "ColonTrain",
    "DTDSynthetic",
    "DataWarning",
    "DatasetCountError",
    "DatasetNotFoundError",
    "Endo",
    "Folder",
    "HeadCT",
    "Joined",
    "Kvasir",
    "MVTecAD",
    "MVTecAD2",
    "MaskSizeError",
    "RealIAD",
    "Record",
    "SameSourceError",
    "Skipped",
    "Synthetic",
    "VisA",
    "check_pair",
    "get_datamodule",
    "list_datamodules",
]


def list_datamodules() -> list[str]:
    """Return the keys of all data modules, in the order of the papers' tables, then those of the entry points."""
    return REGISTRY.names()


def get_datamodule(name: str, by_hand: bool = False) -> type[BenchmarkDataModule]:
    """Return the data module class of a key (``"mvtec_ad"``) or class name (``"MVTecAD"``), ignoring case.

    Args:
        name: Key, class name, entry point in the group ``zsad.datamodules``, or ``"package.module.Class"``.
        by_hand: Whether somebody typed the name; a dotted path is imported only then.

    Raises:
        ValueError: Unknown; the message lists the known keys, nearest first.
    """
    names = {key.lower(): kind for key, kind in DATAMODULES.items()}
    names |= {kind.__name__.lower(): kind for kind in DATAMODULES.values()}
    if name.lower() in names:
        return names[name.lower()]
    if (found := REGISTRY.find_outside(name, by_hand)) is not None:
        return found
    near = difflib.get_close_matches(name.lower(), names, len(names), 0)
    ordered = list(dict.fromkeys(key for one in near for key, kind in DATAMODULES.items() if kind is names[one]))
    raise ValueError(f"Unknown data set '{name}'; known, nearest first: {', '.join(ordered)}.")
