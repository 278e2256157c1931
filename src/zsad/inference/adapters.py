"""Which learned parameters a name means, and whether they fit the backbone."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from zsad.clip import Clip
from zsad.clip.loading import from_a_file
from zsad.methods import METHODS, CheckpointError, Method
from zsad.methods.author_files import weights_path
from zsad.methods.provenance import SameDataError
from zsad.weights import notices, registry, store
from zsad.weights.registry import WeightsEntry


class Adapters(NamedTuple):
    """Published adapters as they lie on this machine."""

    path: Path
    entry: WeightsEntry


class OtherTowerWarning(UserWarning):
    """Adapters are used with weights of the backbone that nobody compared with those that they were trained on."""


def key_of(kind: type[Method]) -> str:
    """Return the registry name of a method's class, empty if it has none."""
    return next((name for name, known in METHODS.items() if known is kind), "")


def split_name(name: str, checkpoint: str | Path | None) -> tuple[str, str | Path | None]:
    """Return method and checkpoint of a name as ``load_model`` takes it, ``"anomalyclip/visa"`` for example.

    Raises:
        ValueError: Both the name and ``checkpoint`` say which adapters.
    """
    method, slash, variant = name.partition("/")
    if not slash:
        return name, checkpoint
    if checkpoint is not None:
        raise ValueError(f"'{name}' names adapters, and so does checkpoint='{checkpoint}': give one of them.")
    return method, f"{method.lower()}/{variant}"


def choose(kind: type[Method], checkpoint: str | Path | None, target: str | None = None) -> WeightsEntry | None:
    """Return the published adapters that are meant, None if a file is, or if nothing of that method is published.

    Args:
        kind: The method's class.
        checkpoint: A name (``"visa"``), the path of a file, or None for the default.
        target: Key of the data set to be tested on; None for a user's images.

    Raises:
        UnknownAdaptersError: There are no adapters of that name.
        SameDataError: All that are published learned from the target.
    """
    key = key_of(kind)
    if checkpoint is not None:
        return registry.named(key, str(checkpoint)) if isinstance(checkpoint, str) else None
    if not hasattr(kind, "training_stages"):
        return None
    entry = registry.default_for(key, target)
    if entry is None and registry.default_for(key) is not None:
        raise SameDataError(
            f"All published adapters of {kind.__name__} were trained on {target}: a test on it is no zero-shot result. "
            f"Test on another data set, or give a checkpoint of your own."
        )
    return entry


def fetch(
    entry: WeightsEntry, offline: bool | None = None, accept_noncommercial: bool = False, mirror: str | None = None
) -> Adapters:
    """Return published adapters, fetched if they are not here, and print their licences once.

    Raises:
        NotHereError: They are not on this machine and cannot be fetched.
        DownloadError: The download failed, or gave another file than expected.
    """
    path = weights_path(entry.name, offline=offline, mirror=mirror)
    notices.announce(entry, accept_noncommercial)
    return Adapters(path, entry)


def fitting_backbone(entry: WeightsEntry, backbone: str | Clip | None) -> str | Clip:
    """Return the backbone for adapters: their own, unless the same model from a file is given.

    Raises:
        CheckpointError: The given backbone is another one.
    """
    own = str(entry.backbone)
    if backbone is None:
        return own
    given = backbone.name if isinstance(backbone, Clip) else backbone
    if given == own:
        return backbone
    if not from_a_file(given, own):
        raise CheckpointError(
            f"Adapters '{entry.name}' were trained on {own}; this model is {given}. Leave out backbone=."
        )
    return backbone


def compare_tower(entry: WeightsEntry, method: Any) -> None:
    """Warn if a method with published adapters runs on a backbone from a file that is not known to be their own.

    The hash of the tower that the adapters belong to is noted beside them the first time that they run on their own
    backbone by name.
    """
    known = store.read_note(entry).get("tower_key")
    own = method.clip.name == entry.backbone
    if own and known is not None:
        return
    found = method.clip.weights_key()
    if own:
        store.add_to_note(entry, tower_key=found)
    elif known is None or known != found:
        why = "has other weights than the one" if known else "cannot be compared with the one"
        warnings.warn(
            f"The backbone '{method.clip.name}' {why} that the adapters '{entry.name}' were trained on "
            f"({entry.backbone}): scores are right only if the file holds the same weights.",
            OtherTowerWarning,
            stacklevel=3,
        )
