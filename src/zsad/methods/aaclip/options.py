"""AA-CLIP's choices: stages, domains, and where the released code and the paper differ."""

from pathlib import Path
from typing import Any, Literal, TypedDict

from zsad.clip.loading import Activation
from zsad.methods.aaclip.adapters import (
    StoredAdapter,
    adapted_blocks,
    read_adapter,
)

Domain = Literal["industrial", "medical"]
Stage = Literal["text", "image"]

STAGES: tuple[Stage, Stage] = ("text", "image")
BLUR: dict[Domain, tuple[int, float]] = {"industrial": (7, 1.0), "medical": (9, 1.5)}
SETTINGS: dict[Stage, tuple[float, tuple[int, ...]]] = {"text": (1e-5, ()), "image": (5e-4, (16000, 32000))}


class Variant(TypedDict):
    """Options that the released code and the paper have differently."""

    activation: Activation
    vv_axis: Literal["batch", "token"]
    stage1_levels: Literal["last", "sum", "mean"]
    stage1_cls_loss: bool


VARIANTS: dict[str, Variant] = {
    "released": {"activation": "gelu", "vv_axis": "batch", "stage1_levels": "last", "stage1_cls_loss": False},
    "paper": {"activation": "quick_gelu", "vv_axis": "token", "stage1_levels": "sum", "stage1_cls_loss": True},
}


def one_of(name: str, value: Any, known: Any) -> None:
    """Raise a :class:`ValueError` if a value is none of the known ones."""
    if value not in known:
        raise ValueError(f"{name} must be one of {list(known)}, got {value!r}.")


def default_levels(depth: int) -> tuple[int, ...]:
    """Return the ends of the depth's four quarters, fewer where the tower is shallower than that."""
    return tuple(dict.fromkeys(max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)))


def read(path: str | Path | None, which: str) -> StoredAdapter | None:
    """Return one stage's adapters from a file; None without a file."""
    return None if path is None else read_adapter(path, which)


def adapter_count(stored: StoredAdapter | None, given: int | None, default: int) -> int:
    """Return how many blocks have an adapter: as told, else as stored, else the default."""
    if given is not None:
        return given
    return default if stored is None else adapted_blocks(stored.state)
