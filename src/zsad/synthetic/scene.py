"""From a class name to a picture before its defect: the texture, or the object on its ground; and the camera."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from zsad.synthetic.noise import BoolArray, FloatArray, field, hsv, uv
from zsad.synthetic.objects import OBJECTS
from zsad.synthetic.pen import Pen
from zsad.synthetic.textures import TEXTURES
from zsad.synthetic.wider import WIDER_OBJECTS, WIDER_TEXTURES

GROUNDS = ("wood", "fabric", "concrete", "metal")
"""Textures that objects may lie on (all of them are among the seen classes)."""


@dataclass(frozen=True)
class Scene:
    """A flawless picture and what a defect needs to know about it.

    Args:
        image: RGB in [0, 1], (size, size, 3).
        foreground: Where the object is, (size, size); true everywhere for a texture.
        background: What one sees where the object is missing, (size, size, 3); None for a texture.
    """

    image: FloatArray
    foreground: BoolArray
    background: FloatArray | None


def _ground(rng: np.random.Generator, size: int) -> FloatArray:
    """A plain grained ground in 60% of the pictures, else a texture."""
    if rng.random() < 0.6:
        colour = np.asarray(hsv(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.08, 0.95)), np.float32)
        return np.clip(colour + rng.uniform(0.005, 0.03) * field(rng, size, rng.uniform(1, 3))[..., None], 0, 1)
    return np.clip(TEXTURES[GROUNDS[rng.integers(len(GROUNDS))]](rng, size), 0, 1)


def _object_scene(rng: np.random.Generator, class_name: str, size: int) -> Scene:
    pen = Pen(2 * size)
    (OBJECTS | WIDER_OBJECTS)[class_name](rng, pen)
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else rng.normal(0, 0.07)
    scale, side = rng.uniform(0.75, 1.05), 2 * size
    shift = rng.normal(0, 3 / 96 * side, 2)
    cos, sin, half = np.cos(angle) / scale, np.sin(angle) / scale, side / 2
    matrix = (
        cos, sin, half - (cos + sin) * half - cos * shift[0] - sin * shift[1],
        -sin, cos, half - (cos - sin) * half + sin * shift[0] - cos * shift[1],
    )  # fmt: skip
    layer = pen.layer.transform((side, side), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)
    layer = layer.reduce(2)  # premultiplies by alpha, so that edges keep the object's colour
    pixels = np.asarray(layer, np.float32) / 255
    alpha, colour = pixels[..., 3], pixels[..., :3]
    surface = rng.uniform(0.01, 0.06) * field(rng, size, rng.uniform(1, 3)) + rng.uniform(0, 0.1) * field(rng, size, 40)
    colour = np.clip(colour * (1 + surface)[..., None] + 0.3 * surface[..., None], 0, 1)
    ground = _ground(rng, size)
    if rng.random() < 0.5:
        offset = rng.normal(0, 0.035, 2) * size
        shadow = ndimage.gaussian_filter(ndimage.shift(alpha, offset, order=1), 0.025 * size)
        ground = ground * (1 - rng.uniform(0.2, 0.6) * shadow)[..., None]
    image = alpha[..., None] * colour + (1 - alpha[..., None]) * ground
    return Scene(image.astype(np.float32), alpha > 0.5, ground.astype(np.float32))


def flawless(rng: np.random.Generator, class_name: str, size: int) -> Scene:
    """Return the normal picture of a class, before any defect and any camera effect."""
    if class_name in OBJECTS or class_name in WIDER_OBJECTS:
        return _object_scene(rng, class_name, size)
    image = np.clip((TEXTURES | WIDER_TEXTURES)[class_name](rng, size), 0, 1).astype(np.float32)
    return Scene(image, np.ones((size, size), bool), None)


def camera(rng: np.random.Generator, image: FloatArray, size: int) -> FloatArray:
    """Return the picture as a camera would take it: ramp, gain, glare, blur, noise; normal and defective alike."""
    u, v = uv(size, rng.uniform(0, 2 * np.pi))
    gain = rng.uniform(0.75, 1.2) * (1 + rng.normal(0, 0.08) * u / 48)
    image = image * gain[..., None]
    if rng.random() < 0.25:
        x, y = rng.uniform(-40, 40, 2)
        spot = np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * rng.uniform(8, 22) ** 2))
        image = image + rng.uniform(0.08, 0.3) * spot[..., None]
    sigma = rng.uniform(0, 0.9) * size / 96
    if sigma > 0.25:
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0), truncate=3)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + rng.uniform(0.003, 0.03) * noise, 0, 1).astype(np.float32)
