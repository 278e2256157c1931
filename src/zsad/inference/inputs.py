"""Whatever holds an image becomes a picture: a path, a folder, an array, a tensor."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.images import list_images, to_rgb

_In = TypeVar("_In")


_Out = TypeVar("_Out")


def is_one(x: Any) -> bool:
    """Return whether this is one image, rather than a folder or a collection."""
    if isinstance(x, (str, os.PathLike)):
        return not Path(x).is_dir()
    if isinstance(x, (np.ndarray, Tensor)):
        return x.ndim < 4
    return isinstance(x, Image.Image)


def flat(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the single images of a mixed collection, folders walked."""
    for item in items:
        if is_one(item):
            yield item
        elif isinstance(item, (str, os.PathLike)):
            yield from list_images([Path(item)])
        elif isinstance(item, (np.ndarray, Tensor)):
            yield from item
        else:
            kind = type(item).__name__
            raise TypeError(f"Cannot predict on {kind} in a list: give paths, PIL images, arrays or tensors.")


def ahead_of(function: Callable[[_In], _Out], items: Iterable[_In], workers: int, ahead: int) -> Iterator[_Out]:
    """Map in order, with threads that work on at most ``ahead`` items before they are asked for."""
    if workers == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def smaller(picture: Image.Image, side: int) -> Image.Image:
    """Return a copy whose longer side has at most so many pixels."""
    copy = picture.copy()
    copy.thumbnail((side, side))
    return copy


def to_picture(x: Any) -> Image.Image:
    """Return a PIL image, an array or a tensor as an RGB picture."""
    if isinstance(x, Image.Image):
        return to_rgb(x)
    if isinstance(x, Tensor):
        values = x.detach().cpu()
        if values.ndim == 3 and values.shape[0] not in (1, 3):
            raise ValueError(f"A tensor must be (height, width) or (1 or 3, height, width), got {tuple(values.shape)}.")
        x = (values.permute(1, 2, 0) if values.ndim == 3 else values).numpy()
    levels = _levels(np.asarray(x))
    if levels.ndim == 3 and levels.shape[-1] == 1:
        levels = levels[..., 0]
    if levels.ndim == 2:
        return Image.fromarray(levels).convert("RGB")
    if levels.ndim != 3 or levels.shape[-1] not in (3, 4):
        hint = "; put the channels last" if levels.ndim == 3 and levels.shape[0] in (1, 3, 4) else ""
        raise ValueError(f"An array must be (height, width) or (height, width, 1, 3 or 4), got {levels.shape}{hint}.")
    return Image.fromarray(np.ascontiguousarray(levels[..., :3]))


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixel values as levels in 0..255."""
    if values.size == 0 or values.dtype.kind not in "biuf":
        raise ValueError(f"An image needs numbers, got an array of shape {values.shape} and type {values.dtype}.")
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    low, high = float(values.min()), float(values.max())
    if values.dtype == np.uint16:
        return np.rint(values / 257.0).astype(np.uint8)
    if not (low >= 0 and high <= 255):  # NaN fails as well
        raise ValueError(
            f"Pixel values must lie in [0, 1] or [0, 255], got {low:.4g} to {high:.4g}. Normalised tensors go straight "
            f"to the method: predictor.method(images, class_names)."
        )
    scale = 255.0 if high <= 1 and values.dtype.kind == "f" else 1.0
    return np.rint(values * scale).astype(np.uint8)
