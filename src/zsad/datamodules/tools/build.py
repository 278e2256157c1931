"""From a name and options to a data module."""

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsad.datamodules import BenchmarkDataModule, get_datamodule

Options = Mapping[str, Any] | None


def build(name: str, root: str | Path, options: Options = None) -> BenchmarkDataModule:
    """Return a data module.

    Args:
        name: Key or class name, e.g. ``"sdd"``.
        root: Folder of the data.
        options: Arguments of the class.

    Raises:
        ValueError: The name or an option is unknown.
    """
    kind = get_datamodule(name, by_hand=True)
    if "root" not in inspect.signature(kind).parameters:
        raise ValueError(f"'{name}' has no files to work on.")
    given = dict(options or {})
    known = [
        parameter.name
        for one in inspect.getmro(kind)
        if "__init__" in vars(one)
        for parameter in inspect.signature(vars(one)["__init__"]).parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and parameter.name not in ("self", "root")
    ]
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1, 0)
            raise ValueError(f"{kind.__name__} has no option '{option}'; nearest: {near}, all: {sorted(set(known))}.")
    return kind(root, **given)
