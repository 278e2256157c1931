"""Further defects for pretraining only: a random shape filled in a random way.

They have no name of their own and are in no test set. None is built as a held-out defect is: no thin curved fibre, no
shading that is bright on one side and dark on the other, no translucent drop with a highlight, no swirl.
"""

import numpy as np
from scipy import ndimage

from zsad.synthetic.defects import Centre, Defect, depth_of_blob, paint, soft, stroke
from zsad.synthetic.names import named
from zsad.synthetic.noise import FloatArray, any_colour, field, turn
from zsad.synthetic.objects import assembly
from zsad.synthetic.pen import Pen
from zsad.synthetic.scene import Scene
from zsad.synthetic.textures import pattern


def _shape(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> FloatArray:
    """Opacity of a blob, a rectangle, a band, a row of spots or a ring."""
    size, kind, angle = len(scene.image), rng.integers(6), turn(rng)
    edge = 1.5 if rng.random() < 0.6 else rng.uniform(2, 6)
    dy = (np.arange(size, dtype=np.float32) - centre[0])[:, None]
    dx = (np.arange(size, dtype=np.float32) - centre[1])[None, :]
    along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    if kind <= 1:
        return soft(depth_of_blob(rng, scene, centre, q * rng.uniform(0.4, 1.0)), edge)
    if kind == 2:
        half = q * rng.uniform(0.3, 1.2, 2)
        return soft(np.minimum(half[0] - np.abs(along), half[1] - np.abs(across)), edge)
    if kind == 3:
        half = np.array([q * rng.uniform(1.2, 4), rng.uniform(1.0, 3.5) * size / 96])
        return soft(np.minimum(half[0] - np.abs(along), half[1] - np.abs(across)), 1.2)
    if kind == 4:
        total = np.zeros((size, size), np.float32)
        for _ in range(rng.integers(2, 9)):
            middle = (centre[0] + rng.normal(0, q / 2), centre[1] + rng.normal(0, q / 2))
            distance = np.hypot(dy + centre[0] - middle[0], dx + centre[1] - middle[1])
            total = np.maximum(total, soft(q * rng.uniform(0.08, 0.2) + 0.7 - distance, 1.2))
        return total
    distance, radius = np.hypot(dy, dx * rng.uniform(0.7, 1.4)), q * rng.uniform(0.4, 0.9)
    return soft(rng.uniform(0.8, 2.2) * size / 96 - np.abs(distance - radius), 1.2)


def foreign(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A shape of another material, plain or patterned."""
    size, opacity = len(scene.image), _shape(rng, scene, centre, q)
    fill = pattern(rng, size) if rng.random() < 0.5 else np.asarray(any_colour(rng), np.float32)
    return paint(scene.image, np.clip(fill, 0, 1), opacity * np.float32(rng.uniform(0.7, 1))), opacity


def tone(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A shape with another brightness, contrast, colour or the negative of the surface."""
    opacity, kind = _shape(rng, scene, centre, q), rng.integers(4)
    if kind == 0:
        changed = scene.image * np.float32(rng.choice([rng.uniform(0.3, 0.7), rng.uniform(1.4, 2.2)]))
    elif kind == 1:
        changed = scene.image.mean((0, 1)) + rng.uniform(1.8, 3) * (scene.image - scene.image.mean((0, 1)))
    elif kind == 2:
        changed = scene.image + rng.uniform(-0.35, 0.35, 3).astype(np.float32)
    else:
        changed = 1 - scene.image
    return paint(scene.image, np.clip(changed, 0, 1), opacity), opacity


def grain(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A shape that is rougher than the surface around it, or smoother."""
    size, opacity = len(scene.image), _shape(rng, scene, centre, 1.2 * q)
    if rng.random() < 0.6:
        changed = scene.image + rng.uniform(0.1, 0.3) * field(rng, size, rng.uniform(1, 4))[..., None]
    else:
        sigma = rng.uniform(1.5, 5)
        changed = ndimage.gaussian_filter(scene.image, (sigma, sigma, 0))
    return paint(scene.image, np.clip(changed, 0, 1), opacity), opacity


def shift(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A shape in which the picture is moved, mirrored or taken from elsewhere."""
    size, opacity = len(scene.image), _shape(rng, scene, centre, 1.2 * q)
    far = rng.random() < 0.4
    step = rng.integers(size // 4, 3 * size // 4, 2) if far else rng.choice([-1, 1], 2) * rng.integers(2, 9, 2)
    changed = np.roll(scene.image, tuple(step), (0, 1))
    if rng.random() < 0.3:
        changed = changed[:, ::-1]
    return paint(scene.image, changed, opacity), opacity


def intruder(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A small foreign part lies on it."""
    size, side = len(scene.image), max(8, int(q * rng.uniform(0.8, 1.6)))
    pen = Pen(4 * side)
    assembly(rng, pen)
    part = np.asarray(pen.layer.reduce(4), np.float32) / 255
    y, x = (int(np.clip(place - side / 2, 0, size - side)) for place in centre)
    image, opacity = scene.image.copy(), np.zeros((size, size), np.float32)
    opacity[y : y + side, x : x + side] = part[..., 3]
    image[y : y + side, x : x + side] = part[..., :3]
    return paint(scene.image, image, opacity), opacity


def streaks(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """Several short straight marks in random directions, or a lattice of them."""
    size, opacity = len(scene.image), np.zeros((len(scene.image),) * 2, np.float32)
    angle, crossed = turn(rng), rng.random() < 0.5
    for _ in range(rng.integers(3, 9)):
        middle = (centre[0] + rng.normal(0, q / 2), centre[1] + rng.normal(0, q / 2))
        direction = angle + (np.pi / 2 if rng.random() < 0.5 else 0) if crossed else turn(rng)
        dy, dx = q * rng.uniform(0.2, 0.7) * np.array([np.sin(direction), np.cos(direction)])
        ends = [(middle[0] - dy, middle[1] - dx), (middle[0] + dy, middle[1] + dx)]
        opacity = np.maximum(opacity, stroke(size, ends, rng.uniform(0.8, 2) * size / 96))
    step = rng.choice([-1, 1]) * rng.uniform(0.25, 0.5)
    return paint(scene.image, np.clip(scene.image + np.float32(step), 0, 1), opacity), opacity


WIDER_DEFECTS: dict[str, Defect] = named(foreign, tone, grain, shift, intruder, streaks)
"""Defects for pretraining only."""

WIDER_ON_TOP = frozenset({"foreign", "intruder"})
"""Those that lie on the object and may reach over its border."""
