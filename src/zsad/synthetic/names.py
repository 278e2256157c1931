"""Functions that draw, by the name of what they draw."""

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def named(*functions: F) -> dict[str, F]:
    """Return functions by their names, with spaces for underscores."""
    return {function.__name__.replace("_", " "): function for function in functions}
