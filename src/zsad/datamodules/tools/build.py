"""From a name and options on a command line to a data module, and from an error to an exit status."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from rich.console import Console

from zsad.datamodules import BenchmarkDataModule, get_datamodule
from zsad.images import ImageError
from zsad.prompts.yaml_text import read_yaml

Options = Mapping[str, Any] | Sequence[str] | None
P = ParamSpec("P")


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


def reporting(function: Callable[P, int]) -> Callable[P, int]:
    """Turn errors that a user can mend into one message on stderr, or JSON, and exit status 2."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return function(*args, **kwargs)
        except (OSError, ValueError, TypeError, ImageError) as error:
            if kwargs.get("as_json"):
                Console().print_json(data={"error": str(error), "kind": type(error).__name__})
            else:
                Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", markup=False)
            return 2

    return wrapped
