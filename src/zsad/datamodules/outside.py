"""Methods and data modules of other packages: by an entry point, or by a dotted path that somebody typed."""

import importlib
from importlib.metadata import entry_points
from typing import Any, TypeVar

T = TypeVar("T")

_typed: dict[str, Any] = {}
"""Dotted path -> what was imported; only what was typed by hand in this process is in it."""


def outside_names(group: str) -> dict[str, str]:
    """Return what installed packages offer, name -> ``"package.module:Class"``, sorted; nothing is imported.

    Args:
        group: Entry-point group: ``"zsad.methods"`` or ``"zsad.datamodules"``.
    """
    return {entry.name: entry.value for entry in sorted(entry_points(group=group), key=lambda one: one.name)}


def find_outside(name: str, group: str, base: type[T], by_hand: bool) -> type[T] | None:
    """Return a class of another package, None if the name is neither an entry point nor a dotted path.

    Args:
        name: Name of an entry point, or ``"package.module.Class"``.
        group: Entry-point group.
        base: What the class must be a child of.
        by_hand: Whether somebody typed the name: a dotted path runs the code of its module, so one that stands in a
            checkpoint, a card, a result or a weights file is not imported.

    Raises:
        ValueError: The path is not typed by hand, cannot be imported, or is no such class.
    """
    entry = next((one for one in entry_points(group=group) if one.name.lower() == name.lower()), None)
    if entry is not None:
        return _checked(entry.load(), f"entry point '{name}' of {entry.value}", base)
    if not all(part.isidentifier() for part in name.split(".")) or "." not in name:
        return None
    if name not in _typed:
        if not by_hand:
            raise ValueError(
                f"'{name}' stands in a file. A dotted path is imported only when you type it; a file may name the "
                f"library's own and those of the entry-point group '{group}'."
            )
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"'{name}' cannot be imported: {error}. Is its package installed, or its folder on PYTHONPATH?"
            ) from error
        _typed[name] = _checked(found, f"'{name}'", base)
    return _checked(_typed[name], f"'{name}'", base)


def _checked(found: Any, what: str, base: type[T]) -> type[T]:
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{what} is no {base.__name__}: it must be a class that is a child of {base.__qualname__}.")
    return found
