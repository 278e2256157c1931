"""Methods and data modules of other packages: by an entry point, or by a dotted path that somebody typed."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_typed: dict[str, Any] = {}
"""Dotted path -> what was imported; only what was typed by hand in this process is in it."""


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Classes by name: the library's own, and those that installed packages offer.

    Args:
        group: Entry-point group by which other packages offer theirs.
        base: What each class is a child of.
        own: Name -> class, in the order of the tables.
    """

    group: str
    base: type[T]
    own: Mapping[str, type[T]]

    def outside(self) -> dict[str, str]:
        """Return what installed packages offer, name -> ``"package.module:Class"``, sorted; nothing is imported."""
        entries = sorted(entry_points(group=self.group), key=lambda one: one.name)
        return {entry.name: entry.value for entry in entries if entry.name not in self.own}

    def names(self) -> list[str]:
        """Return all names, the library's own first; nothing is imported."""
        return [*self.own, *self.outside()]

    def find_outside(self, name: str, by_hand: bool) -> type[T] | None:
        """Return a class of another package, None if the name is neither an entry point nor a dotted path.

        Args:
            name: Name of an entry point, or ``"package.module.Class"``.
            by_hand: Whether somebody typed the name: a dotted path runs the code of its module, so one that stands in a
                checkpoint, a card, a result or a weights file is not imported.

        Raises:
            ValueError: The path is not typed by hand, cannot be imported, or is no such class.
        """
        entry = next((one for one in entry_points(group=self.group) if one.name.lower() == name.lower()), None)
        if entry is not None:
            return _checked(entry.load(), f"entry point '{name}' of {entry.value}", self.base)
        if not all(part.isidentifier() for part in name.split(".")) or "." not in name:
            return None
        if name not in _typed:
            if not by_hand:
                raise ValueError(
                    f"'{name}' stands in a file. A dotted path is imported only when you type it; a file may name the "
                    f"library's own and those of the entry-point group '{self.group}'."
                )
            module, _, attribute = name.rpartition(".")
            try:
                found = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise ValueError(
                    f"'{name}' cannot be imported: {error}. Is its package installed, or its folder on PYTHONPATH?"
                ) from error
            _typed[name] = _checked(found, f"'{name}'", self.base)
        return _checked(_typed[name], f"'{name}'", self.base)


def _checked(found: Any, what: str, base: type[T]) -> type[T]:
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{what} is no {base.__name__}: it must be a class that is a child of {base.__qualname__}.")
    return found
