"""An input becomes what a method can score: opened, resized, with what is known of its file."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from zsad.images.levels import ReadOptions, Window
from zsad.images.listing import Found
from zsad.images.picture import ImageError, Picture
from zsad.images.picture import Size as PixelSize
from zsad.images.reading import load_picture
from zsad.images.tiling import Box
from zsad.images.where import EVERYWHERE, Where, scaled
from zsad.inference.files import FileFacts
from zsad.inference.inputs import Named, pixel_digest, smaller, to_picture

Size = Literal["native", "model"] | int
"""At which size results come: the image's own, the model's input, or the longer side at most so many pixels."""

IN_MEMORY = "<image>"  # methods may seed their random numbers by path: the same for every picture without one


@dataclass(frozen=True)
class Opened:
    """A picture as it waits for its batch."""

    class_name: str
    path: str | None
    seed: str
    """What the method knows a picture by: the path below the folder, the path as given, or a name."""
    picture: Image.Image
    tensor: Any
    """As the model sees it, (3, height, width); None if it could not be read."""
    error: ValueError | None = None
    size: PixelSize | None = None
    file: FileFacts | None = None
    warning: str | None = None
    fitting: Window | None = None
    pixels: str | None = None
    """Digest of the picture, where a card has those of its calibration images."""
    where: Where = EVERYWHERE
    region: Image.Image | None = None
    """What is scored of it, at its own size, if it is to be cut into tiles."""

    @property
    def box(self) -> Box:
        """What is scored of it, in pixels of the upright picture."""
        assert self.size is not None
        return self.where.box(self.size)

    def inside(self, size: PixelSize) -> Box:
        """Return where that lies in a map of (height, width)."""
        assert self.size is not None
        return scaled(self.box, self.size, size)

    @property
    def called(self) -> str:
        """What an error message calls it."""
        return self.seed if self.path is None else self.path


@dataclass(frozen=True)
class Opener:
    """How inputs are opened.

    Args:
        prepare: Makes an upright picture what the model sees, (3, height, width).
        reading: How grey levels are read, and how many pixels are too many.
        size: Of the pictures that come back.
        strict: Whether an unreadable file raises.
        content: Whether the digest of a file's content is taken.
        pixels: Whether the digest of the picture is taken.
        least: Pixels that both sides of a JPEG file must keep when it is decoded small; None if it must not be.
        where: Where to look, unless an input says it.
        tiles: Whether pictures are kept at their own size, to be cut.
    """

    prepare: Callable[[Image.Image], Any]
    reading: ReadOptions
    size: Size = "native"
    strict: bool = False
    content: bool = False
    pixels: bool = False
    least: int | None = None
    where: Where = EVERYWHERE
    tiles: bool = False

    def __call__(self, named: tuple[Any, str]) -> Opened:
        """Return an input, given with its class, as it waits for its batch.

        Raises:
            ImageError: It cannot be read, and this is strict.
            TypeError: It is nothing that holds an image.
            ValueError: An array has a shape or values that no image has.
        """
        x, class_name = named
        path = x.path if isinstance(x, Found) else os.fspath(x) if isinstance(x, (str, os.PathLike)) else None
        name, x = (x.name, x.picture) if isinstance(x, Named) else (IN_MEMORY, x)
        seed = x.below if isinstance(x, Found) else name if path is None else path
        facts = None
        try:
            if isinstance(x, Found) and x.error is not None:
                raise ImageError(x.error)
            facts = None if path is None else FileFacts.of(path, self.content)  # before reading: changes are noticed
            read = (
                load_picture(path, self.reading, self.least)
                if path is not None
                else Picture(to_picture(x, self.reading))
            )
            where, region = self.where, read.image
            if isinstance(x, Found):
                where = where.instead(x.roi, x.ignore_mask)
            where.check(read.size)
            if where.roi is not None:
                region = region.crop(scaled(where.box(read.size), read.size, (region.height, region.width)))
        except ImageError as error:
            if self.strict:
                raise
            return Opened(class_name, path, seed, Image.new("RGB", (1, 1)), None, error, file=facts)
        if facts is not None and read.instance is not None:
            facts = replace(facts, sop_instance=read.instance)
        picture = read.image
        pixels = pixel_digest(picture) if self.pixels else None
        tensor = self.prepare(region)
        if self.size == "model":
            side = (tensor.shape[-1], tensor.shape[-2])
            picture = picture.resize(side, Image.Resampling.BICUBIC, reducing_gap=2.0)
        elif isinstance(self.size, int):
            picture = smaller(picture, self.size)
        return Opened(
            class_name, path, seed, picture, tensor, None, read.size, facts, read.warning, read.fitting, pixels, where,
            region if self.tiles else None,
        )  # fmt: skip


def as_picture(x: Any, reading: ReadOptions) -> Image.Image:
    """Return a path or whatever holds a picture as an upright RGB picture.

    Raises:
        ImageError: A file cannot be read.
    """
    if isinstance(x, (str, os.PathLike)):
        return load_picture(Path(x), reading).image
    return to_picture(x, reading)
