"""One picture of the synthetic benchmark from a class, a defect and a seed."""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zsad.synthetic.defects import DEFECTS, HELD_OUT_DEFECTS, ON_TOP, SEEN_DEFECTS
from zsad.synthetic.noise import BoolArray, FloatArray
from zsad.synthetic.objects import HELD_OUT_OBJECTS, OBJECTS, SEEN_OBJECTS
from zsad.synthetic.scene import Scene, camera, flawless
from zsad.synthetic.textures import HELD_OUT_TEXTURES, SEEN_TEXTURES, TEXTURES
from zsad.synthetic.wider import WIDER_OBJECTS, WIDER_TEXTURES
from zsad.synthetic.wider_defects import WIDER_DEFECTS, WIDER_ON_TOP

GENERATOR_VERSION = 2
"""Raised whenever a change of the generator changes pictures; stored with the weights trained on them.

2: no defect covers 35 % of a picture; in version 1 one in a thousand did, no other picture changed.
"""

CLASSES: tuple[str, ...] = (*TEXTURES, *OBJECTS)
"""All class names, textures first."""

SEEN_CLASSES: tuple[str, ...] = (*SEEN_TEXTURES, *SEEN_OBJECTS)
"""Classes that the mini CLIP was trained on."""

HELD_OUT_CLASSES: tuple[str, ...] = (*HELD_OUT_TEXTURES, *HELD_OUT_OBJECTS)
"""Classes that the mini CLIP never saw."""

WIDER_CLASSES: tuple[str, ...] = (*WIDER_TEXTURES, *WIDER_OBJECTS)
"""Classes built at random for pretraining only: in no test set, and without a name in captions."""

LEAST_PIXELS = 12
"""A defect covers at least this many pixels (of 96 x 96; more on larger pictures, in proportion)."""

LEAST_CHANGE = 0.06
"""Mean absolute change of the colour channels inside a defect, of a range of 1: less would be invisible."""

MOST = 0.35
"""Share of the picture that no defect covers: where a flat surface hides it, it grows from try to try."""

TRIES = 24
"""How often a defect that nobody can see is drawn again, each time a little larger."""


@dataclass(frozen=True)
class SyntheticSample:
    """One picture of the synthetic benchmark.

    Args:
        image: RGB, (size, size, 3) uint8.
        mask: Where the defect is, (size, size); all false for a normal picture.
        class_name: One of :data:`CLASSES`.
        defect: One of :data:`~zsad.synthetic.defects.DEFECTS`, or "" for a normal picture.
        foreground: Where the object is, (size, size); true everywhere for a texture.
    """

    image: NDArray[np.uint8]
    mask: BoolArray
    class_name: str
    defect: str
    foreground: BoolArray


def _centre(rng: np.random.Generator, scene: Scene, defect: str) -> tuple[float, float]:
    """A place for the defect: on the foreground, on its border for ``broken``."""
    size = len(scene.foreground)
    place = scene.foreground
    if scene.background is None:
        margin = 0 if defect == "broken" else size // 12
        y, x = rng.integers(margin, size - margin, 2)
        if defect == "broken":  # a texture's border is the picture's
            y, x = ((y, x), (0, x), (size - 1, x), (y, 0), (y, size - 1))[rng.integers(1, 5)]
        return float(y), float(x)
    if defect == "broken":
        place = place & ~ndimage.binary_erosion(place, border_value=1)
    rows, columns = np.nonzero(place)
    index = rng.integers(len(rows))
    return float(rows[index]), float(columns[index])


def _damage(rng: np.random.Generator, scene: Scene, defect: str) -> tuple[FloatArray, BoolArray]:
    """Return the picture with a visible defect, and its mask."""
    size = len(scene.image)
    best = (-np.inf, scene.image, np.zeros((size, size), bool))
    least_pixels = LEAST_PIXELS * (size / 96) ** 2
    for attempt in range(TRIES):
        q = rng.uniform(0.07, 0.20) * size * (1 + 0.05 * attempt)
        changed, soft = (DEFECTS | WIDER_DEFECTS)[defect](rng, scene, _centre(rng, scene, defect), q)
        mask, clipped = (
            soft > 0.25,
            scene.background is not None and defect not in ON_TOP | WIDER_ON_TOP,
        )
        if clipped:
            mask = mask & scene.foreground
        near = ndimage.binary_dilation(mask, iterations=2)
        if clipped:
            near &= scene.foreground
        image = np.where(near[..., None], np.clip(changed, 0, 1), scene.image).astype(np.float32)
        pixels = int(mask.sum())
        change = float(np.abs(image - scene.image).mean(-1)[mask].mean()) if pixels else 0.0
        share = float(mask.mean())
        visible = -share if share >= MOST else min(pixels / least_pixels, change / LEAST_CHANGE)
        if visible > best[0]:
            best = (visible, image, mask)
        if visible >= 1:
            return image, mask
    return _strengthened(scene.image, best[1], best[2]), best[2]


def _strengthened(flawless_image: FloatArray, image: FloatArray, mask: BoolArray) -> FloatArray:
    """Return a defect that a flat surface would hide (a swirl of blank paper), exaggerated until it can be seen."""
    for factor in (1.5, 2.0, 3.0, 4.0, 6.0, 9.0):
        stronger = np.clip(flawless_image + factor * (image - flawless_image), 0, 1)
        if np.abs(stronger - flawless_image).mean(-1)[mask].mean() >= LEAST_CHANGE:
            return stronger
    return np.where(mask[..., None], np.clip(image - 0.12, 0, 1), image).astype(np.float32)


def generate(
    class_name: str, defect: str = "", seed: int = 0, size: int = 96, with_camera: bool = True
) -> SyntheticSample:
    """Return one picture; the same arguments give the same picture on one platform and library version.

    A normal and a defective picture of one class and seed show the same thing; only the defect and the camera differ.

    Args:
        class_name: One of :data:`CLASSES`.
        defect: One of :data:`~zsad.synthetic.defects.DEFECTS`; "" for a normal picture.
        seed: Any non-negative whole number.
        size: Side in pixels, at least 48.
        with_camera: Whether brightness, glare, blur and noise of a camera come on top.

    Returns:
        The picture with its mask.

    Raises:
        ValueError: If the class or the defect is unknown, the seed negative or the size too small.

    Example:
        >>> sample = generate("leather", "dent", seed=3)
        >>> sample.image.shape, bool(sample.mask.any())
        ((96, 96, 3), True)
    """
    if class_name not in CLASSES and class_name not in WIDER_CLASSES:
        raise ValueError(f"Unknown synthetic class {class_name!r}; choose one of: {', '.join(CLASSES)}.")
    if defect and defect not in DEFECTS and defect not in WIDER_DEFECTS:
        raise ValueError(f"Unknown synthetic defect {defect!r}; choose '' (normal) or one of: {', '.join(DEFECTS)}.")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}.")
    if size < 48:
        raise ValueError(f"size must be at least 48 pixels, got {size}.")
    rng = np.random.default_rng((seed, zlib.crc32(class_name.encode())))
    scene = flawless(rng, class_name, size)
    image, mask = scene.image, np.zeros((size, size), bool)
    if defect:
        image, mask = _damage(rng, scene, defect)
    if with_camera:
        image = camera(rng, image, size)
    return SyntheticSample(np.round(image * 255).astype(np.uint8), mask, class_name, defect, scene.foreground)


__all__ = [
    "CLASSES",
    "GENERATOR_VERSION",
    "HELD_OUT_CLASSES",
    "HELD_OUT_DEFECTS",
    "SEEN_CLASSES",
    "SEEN_DEFECTS",
    "SyntheticSample",
    "generate",
]
