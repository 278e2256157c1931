"""From a name and options on a command line to a data module."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsad.datamodules import BenchmarkDataModule, get_datamodule
from zsad.prompts.yaml_text import read_yaml

Options = Mapping[str, Any] | Sequence[str] | None


def build(name: str, root: str | Path, options: Options = None) -> BenchmarkDataModule:
    """Return a data module.

    Args:
        name: Key or class name, e.g. ``"sdd"``.
        root: Folder of the data.
        options: Arguments of the class, as a mapping or as texts ``"pieces=3"`` with a YAML value.

    Raises:
        ValueError: The name or an option is unknown, or an option is not ``key=value``.
    """
    kind = get_datamodule(name, by_hand=True)
    if "root" not in inspect.signature(kind).parameters:
        raise ValueError(f"'{name}' has no files to work on.")
    given = dict(options) if isinstance(options, Mapping) else _parse(options or ())
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


def _parse(texts: Sequence[str]) -> dict[str, Any]:
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"An option is key=value, got '{text}'.")
        options[name.replace("-", "_")] = read_yaml(value, f"option {name}")
    return options
