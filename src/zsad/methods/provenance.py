"""What a model was trained on: data sets by name, root and classes, and whether a test would meet them again."""

from collections.abc import Mapping, Sequence
from typing import Any


class SameDataError(ValueError):
    """A model is about to be tested on the data that it was trained on."""


def as_data_sets(found: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return one dictionary per data set; older checkpoints hold one dictionary, or an empty one for none."""
    if isinstance(found, Mapping):
        return [dict(found)] if found else []
    return [dict(one) for one in found or ()]


def identity(datamodule: Any) -> list[dict[str, Any]]:
    """Return name, root and classes of a data module's data sets, one but for joined ones; a bare loader has none."""
    if datamodule is None:
        return [{"name": "a data loader"}]
    state = datamodule.state_dict()
    parts = state.get("parts") or [{"name": type(datamodule).__name__, **state}]
    return [
        {
            "name": str(part["name"]),
            "root": str(part.get("root", "")),
            "classes": None if part.get("classes") is None else [str(name) for name in part["classes"]],
        }
        for part in parts
    ]


def describe_training(trained_on: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Return what a model was trained on as a phrase, for example "visa (2162 images, 15 epochs)"."""
    phrases = []
    for one in as_data_sets(trained_on):
        parts = [f"{one[key]} {key}" for key in ("images", "epochs") if key in one]
        if one.get("classes"):
            parts.insert(0, "classes " + ", ".join(one["classes"]))
        phrases.append(one.get("name", "unknown data") + (f" ({', '.join(parts)})" if parts else ""))
    return " and ".join(phrases) or "unknown data"


def overlap(trained_on: Sequence[Mapping[str, Any]], datamodule: Any) -> str | None:
    """Return the name of a data set of the data module that a model was trained on, None if there is none.

    Two sets of classes without a common one are no overlap. A user's own data, of which nothing is known, go by their
    root as well: one kind of data module serves many folders.
    """
    own = getattr(datamodule, "facts", None) is None
    for tested in identity(datamodule):
        for trained in trained_on:
            same = tested["name"] == trained["name"] and (not own or tested["root"] == trained.get("root"))
            classes = [set(one["classes"]) if one.get("classes") else None for one in (tested, trained)]
            disjoint = None not in classes and not set.intersection(*classes)  # type: ignore[arg-type]
            if same and not disjoint:
                return str(tested["name"])
    return None
