"""Panels of methods that compare images with each other, drawn from the many inputs that are to be scored."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from zsad.images import Found, ImageError, load_rgb
from zsad.images.tensors import Look
from zsad.images.where import EVERYWHERE
from zsad.inference.inputs import Named, to_picture
from zsad.methods import Method
from zsad.methods.musc import Panel, Transductive
from zsad.methods.musc.panel import relative_key


def named(inputs: Iterable[Any]) -> list[Any]:
    """Return inputs with the pictures among them named by their places."""
    return [
        x if isinstance(x, (str, os.PathLike, Found)) else Named(f"<image {place}>", x)
        for place, x in enumerate(inputs)
    ]


def draw_panel(
    method: Transductive, inputs: Iterable[Any], class_name: str, root: str | Path = "", replace: bool = False
) -> Panel | None:
    """Set the panel of a class from what is to be scored, unless a panel or normal references were given.

    Args:
        method: On its device.
        inputs: Paths, found files, or pictures with names.
        class_name: The class.
        root: Folder that paths are relative to.
        replace: Set the panel whatever there was before; it then counts as given, and stays.

    Returns:
        The panel; None if nothing was drawn.

    Raises:
        PanelError: Fewer than two inputs can be read.
    """
    if not replace:
        if method.shots or method.references is not None:
            return None
        if (known := method.memory.get(class_name)) is not None and not known.drawn:
            return None
    method.forget_panel(class_name)
    by_key = {key_of(one, root): one for one in reversed(list(inputs))}
    keys = list(reversed(by_key))
    panel = method.draw_from(class_name, keys, lambda index: read(method, by_key[keys[index]]), root)
    panel.drawn = not replace
    return panel


def key_of(one: Any, root: str | Path = "") -> str:
    """Return what an input is known by: its path below the folder, or its name."""
    if isinstance(one, Found):
        return one.below
    if isinstance(one, Named):
        return one.name
    return one.below if isinstance(one, Found) else relative_key(os.fspath(one), root)


def read(method: Method, one: Any) -> Tensor | None:
    """Return an input as the method sees it, (3, height, width); None if it cannot be read."""
    try:
        return seen(method, one)
    except ImageError:
        return None


def seen(method: Method, one: Any) -> Tensor:
    """Return an input as the method sees it, (3, height, width).

    Raises:
        ImageError: It cannot be read.
    """
    if isinstance(one, Named):
        return method.parts_of(to_picture(one.picture, method.reading))[0]
    if not isinstance(one, Found):
        return method.parts_of(load_rgb(one, method.reading))[0]
    where = EVERYWHERE if method.viewing is None else method.viewing.where
    return Look(method.protocol, where=where.instead(one.roi, one.ignore_mask))(load_rgb(one.path, method.reading))[0]
