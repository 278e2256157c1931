"""Whatever holds an image becomes a picture: a path, a folder, an array, a tensor."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.images.levels import DEFAULT, ReadOptions, to_8_bit
from zsad.images.listing import Found, list_images
from zsad.images.manifest import is_manifest, listed
from zsad.images.picture import ImageError
from zsad.images.reading import to_rgb

_BAND = 2**22  # values at a time

_In = TypeVar("_In")


@dataclass(frozen=True)
class Named:
    """A picture from memory with a name, by which it is known to be one of a panel."""

    name: str
    picture: Any


def is_array(x: Any) -> bool:
    """Return whether this is an array or a tensor; without torch there are no tensors."""
    torch: Any = sys.modules.get("torch")
    return isinstance(x, np.ndarray) or (torch is not None and isinstance(x, torch.Tensor))


def is_one(x: Any) -> bool:
    """Return whether this is one image, rather than a folder, a manifest or a collection."""
    if isinstance(x, (str, os.PathLike)):
        return not Path(x).is_dir() and not is_manifest(x)
    if is_array(x):
        return bool(x.ndim < 4)
    return isinstance(x, (Image.Image, bytes))


def flat(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the single images of a mixed collection, folders walked, manifests read."""
    for item in items:
        if is_one(item):
            yield item
        elif isinstance(item, (str, os.PathLike)) and is_manifest(item):
            yield from listed(item)
        elif isinstance(item, (str, os.PathLike)):
            yield from list_images([Path(item)])
        elif isinstance(item, Found):
            yield item
        elif is_array(item):
            yield from item
        else:
            kind = type(item).__name__
            raise TypeError(f"Cannot predict on {kind} in a list: give paths, PIL images, arrays or tensors.")


def with_classes(items: Iterable[_In], class_name: str | Iterable[str]) -> Iterator[tuple[_In, str]]:
    """Yield each item with its class: what a manifest or a rule says of a file, else what is given.

    Args:
        items: Images.
        class_name: One for all, or one for each.

    Raises:
        ValueError: There are fewer or more classes than images.
    """
    if isinstance(class_name, str):
        for item in items:
            yield item, (isinstance(item, Found) and item.class_name) or class_name
        return
    names = iter(class_name)
    count = 0
    for item in items:
        name = next(names, None)
        if name is None:
            raise ValueError(f"class_name names {count} classes, but there are more images.")
        count += 1
        yield item, (isinstance(item, Found) and item.class_name) or name
    if next(names, None) is not None:
        raise ValueError(f"class_name names more classes than there are images: {count}.")


def smaller(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture whose longer side has at most so many pixels, without a copy at full size."""
    share = side / max(picture.size)
    if share >= 1:
        return picture
    width, height = (max(1, round(length * share)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def to_picture(x: Any, reading: ReadOptions = DEFAULT) -> Image.Image:
    """Return a PIL image, an array, a tensor or the bytes of an image file as an RGB picture."""
    if isinstance(x, bytes):
        try:
            x = Image.open(BytesIO(x))
        except Exception as error:
            raise ImageError(
                f"{len(x)} bytes are not the content of an image file; a path is given as text or pathlib.Path."
            ) from error
        if x.width * x.height > reading.max_pixels:
            raise ImageError(f"The image has {x.width} x {x.height} pixels, more than max_pixels={reading.max_pixels}.")
    if isinstance(x, Image.Image):
        return to_rgb(x, options=reading)
    if is_array(x) and not isinstance(x, np.ndarray):
        values = x.detach().cpu()
        if values.ndim == 3 and values.shape[0] not in (1, 3):
            raise ValueError(f"A tensor must be (height, width) or (1 or 3, height, width), got {tuple(values.shape)}.")
        x = (values.permute(1, 2, 0) if values.ndim == 3 else values).numpy()
    levels = _levels(np.asarray(x), reading)
    if levels.ndim == 3 and levels.shape[-1] == 1:
        levels = levels[..., 0]
    if levels.ndim == 2:
        return Image.fromarray(levels).convert("RGB")
    if levels.ndim != 3 or levels.shape[-1] not in (3, 4):
        hint = "; put the channels last" if levels.ndim == 3 and levels.shape[0] in (1, 3, 4) else ""
        raise ValueError(f"An array must be (height, width) or (height, width, 1, 3 or 4), got {levels.shape}{hint}.")
    return Image.fromarray(np.ascontiguousarray(levels[..., :3]))


def pixel_digest(picture: Image.Image) -> str:
    """Return 8 hexadecimal digits of an upright picture's pixels, by which the same image is found again."""
    rgb = picture.convert("RGB")
    digest = hashlib.blake2b(f"{rgb.width}x{rgb.height}".encode(), digest_size=4)
    digest.update(rgb.tobytes())
    return digest.hexdigest()


def _levels(values: NDArray[Any], reading: ReadOptions) -> NDArray[np.uint8]:
    """Return pixel values as levels in 0..255."""
    if values.size == 0 or values.dtype.kind not in "biuf":
        raise ValueError(f"An image needs numbers, got an array of shape {values.shape} and type {values.dtype}.")
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if (window := reading.limits) is not None or values.dtype == np.uint16:
        rows = max(1, _BAND // max(1, values[0].size))
        bands = [to_8_bit(values[top : top + rows], window or (0, 65535)) for top in range(0, len(values), rows)]
        return np.concatenate(bands)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # NaN fails as well
        raise ValueError(
            f"Pixel values must lie in [0, 1] or [0, 255], got {low:.4g} to {high:.4g}. Normalised tensors go straight "
            f"to the method: predictor.method(images, class_names)."
        )
    scale = 255.0 if high <= 1 and values.dtype.kind == "f" else 1.0
    return np.rint(values * scale).astype(np.uint8)
