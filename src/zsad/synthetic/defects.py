"""The defects: one function per kind, each changing a flawless picture around a centre.

A function takes the generator, the flawless :class:`~zsad.synthetic.scene.Scene`, the centre ``(y, x)`` and the size,
both in pixels, and returns the changed picture and a soft mask in [0, 1] of where it changed.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from zsad.synthetic.names import named
from zsad.synthetic.noise import FloatArray, any_colour, field, hsv, turn
from zsad.synthetic.scene import Scene

Centre = tuple[float, float]
Defect = Callable[[np.random.Generator, Scene, Centre, float], tuple[FloatArray, FloatArray]]


def _polar(shape: tuple[int, ...], centre: Centre) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Offsets (dy, dx), distance and angle of every pixel from the centre."""
    dy = (np.arange(shape[0], dtype=np.float32) - centre[0])[:, None]
    dx = (np.arange(shape[1], dtype=np.float32) - centre[1])[None, :]
    return dy, dx, np.hypot(dy, dx), np.arctan2(dy, dx)


def depth_of_blob(rng: np.random.Generator, scene: Scene, centre: Centre, radius: float) -> FloatArray:
    """Signed distance into an uneven blob in pixels, roughly: positive inside, 0 on its border."""
    _, _, distance, angle = _polar(scene.image.shape, centre)
    border = np.ones_like(angle)
    for k in (1, 2, 3, 5):
        border += rng.normal(0, 0.16 / np.sqrt(k)) * np.cos(k * angle + rng.uniform(0, 6.3))
    stretch = 1 + rng.uniform(0, 0.5) * np.cos(2 * (angle - rng.uniform(0, 6.3)))
    return (radius * np.clip(border, 0.4, 1.8) * np.clip(stretch, 0.5, 1.5) - distance).astype(np.float32)


def soft(depth: FloatArray, width: float) -> FloatArray:
    """Opacity that rises from 0 to 1 over ``width`` pixels around the border."""
    return np.clip(depth / width + 0.5, 0, 1)


def stroke(size: int, points: Sequence[tuple[float, float]], width: float) -> FloatArray:
    """Opacity of a line through ``(y, x)`` points, drawn at three times the size."""
    canvas = Image.new("L", (3 * size, 3 * size))
    ImageDraw.Draw(canvas).line(
        [(3 * x, 3 * y) for y, x in points], fill=255, width=max(1, round(3 * width)), joint="curve"
    )
    return np.asarray(canvas.reduce(3), np.float32) / 255


def _walk(
    rng: np.random.Generator, start: Centre, length: float, angle: float, bend: float, steps: int = 10
) -> list[tuple[float, float]]:
    """Points of a random walk whose direction turns by ``bend`` radians (deviation) per step."""
    y, x = start
    points = [(y, x)]
    for _ in range(steps):
        angle += rng.normal(0, bend)
        y, x = y + length / steps * np.sin(angle), x + length / steps * np.cos(angle)
        points.append((y, x))
    return points


def _ends(centre: Centre, length: float, angle: float) -> list[tuple[float, float]]:
    """The two ends of a straight stroke with its middle in the centre."""
    dy, dx = length / 2 * np.sin(angle), length / 2 * np.cos(angle)
    return [(centre[0] - dy, centre[1] - dx), (centre[0] + dy, centre[1] + dx)]


def paint(image: FloatArray, colour: Sequence[float] | FloatArray, opacity: FloatArray) -> FloatArray:
    """Cover the picture with a colour (or another picture)."""
    weight = opacity[..., None]
    return image * (1 - weight) + np.asarray(colour, np.float32) * weight


def _spot_colour(scene: Scene, centre: Centre) -> FloatArray:
    """Mean colour of the 7 x 7 pixels around the centre."""
    y, x = (int(c) for c in centre)
    return scene.image[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].mean((0, 1))


def _contrasting(rng: np.random.Generator, base: FloatArray, least: float = 0.2) -> FloatArray:
    """A brighter or darker version of a colour, at least ``least`` away where the range allows it."""
    step = rng.uniform(least, 0.5)
    bright = base.mean() < 0.5 if rng.random() < 0.8 else base.mean() >= 0.5
    return np.clip(base + (step if bright else -step), 0, 1)


def _beneath(rng: np.random.Generator, scene: Scene) -> FloatArray:
    """What lies under the surface: the ground of an object, near-black or the blurred picture of a texture."""
    if scene.background is not None:
        return scene.background
    if rng.random() < 0.5:
        return np.broadcast_to(np.float32(rng.uniform(0.0, 0.15)), scene.image.shape)
    return ndimage.gaussian_filter(scene.image, (6, 6, 0)) * np.float32(rng.uniform(0.5, 0.8))


def scratch(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """One to three nearly parallel thin strokes."""
    size, angle = len(scene.image), turn(rng)
    opacity = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(1, 4)):
        middle = (centre[0] + rng.normal(0, q / 4), centre[1] + rng.normal(0, q / 4))
        start, direction = _ends(middle, q * rng.uniform(1.5, 3.5), angle + rng.normal(0, 0.1)), angle
        points = _walk(rng, start[0], q * rng.uniform(1.5, 3.5), direction, 0.05)
        opacity = np.maximum(opacity, stroke(size, points, rng.uniform(0.7, 1.6) * size / 96))
    return paint(scene.image, _contrasting(rng, _spot_colour(scene, centre), 0.25), opacity), opacity


def crack(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A dark random walk with branches."""
    size, angle = len(scene.image), turn(rng)
    trunk = _walk(rng, centre, q * rng.uniform(1.8, 3), angle, 0.45)
    opacity = stroke(size, trunk, rng.uniform(1.0, 2.0) * size / 96)
    for _ in range(rng.integers(0, 4)):
        root = trunk[rng.integers(1, len(trunk))]
        branch = _walk(
            rng, root, q * rng.uniform(0.5, 1.2), angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2), 0.4, 6
        )
        opacity = np.maximum(opacity, stroke(size, branch, rng.uniform(0.7, 1.3) * size / 96))
    return paint(scene.image, _spot_colour(scene, centre) * rng.uniform(0.05, 0.35), opacity), opacity


def hole(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A blob that shows what lies beneath, with a bright rim."""
    depth = depth_of_blob(rng, scene, centre, q * rng.uniform(0.35, 0.7))
    image = scene.image + rng.uniform(0.05, 0.3) * (soft(depth + 1.5, 1.5) - soft(depth, 1.5))[..., None]
    beneath = _beneath(rng, scene) if rng.random() < 0.6 else np.float32(rng.uniform(0, 0.12)) * np.ones(3, np.float32)
    return paint(image, beneath, soft(depth, 1.5)), soft(depth + 1, 2)


def stain(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A soft blob, multiplied or painted with a colour."""
    opacity = soft(depth_of_blob(rng, scene, centre, q * rng.uniform(0.5, 1.0)), q * rng.uniform(0.2, 0.6))
    opacity = opacity * np.clip(1 + 0.2 * field(rng, len(scene.image), 6), 0.4, 1.2).clip(max=1)
    colour = np.asarray(any_colour(rng), np.float32)
    painted = scene.image * colour if rng.random() < 0.5 else np.broadcast_to(colour, scene.image.shape)
    return paint(scene.image, painted, opacity * np.float32(rng.uniform(0.55, 0.95))), opacity


def contamination(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """Two to six grains of foreign matter."""
    size = len(scene.image)
    opacity = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(2, 7)):
        middle = (centre[0] + rng.normal(0, q / 2.5), centre[1] + rng.normal(0, q / 2.5))
        opacity = np.maximum(opacity, soft(depth_of_blob(rng, scene, middle, q * rng.uniform(0.12, 0.35)), 1.2))
    grain = np.asarray(any_colour(rng), np.float32) + rng.uniform(0.05, 0.2) * field(rng, size, 1.5)[..., None]
    return paint(scene.image, np.clip(grain, 0, 1), opacity), opacity


def cut(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A slit with bright lips."""
    size = len(scene.image)
    points, width = _ends(centre, q * rng.uniform(1.2, 2.5), turn(rng)), rng.uniform(2, 4) * size / 96
    slit, lips = stroke(size, points, width * 0.6), stroke(size, points, width)
    image = paint(scene.image, np.clip(_spot_colour(scene, centre) + rng.uniform(0.1, 0.4), 0, 1), lips)
    return paint(image, _beneath(rng, scene) * np.float32(rng.uniform(0.1, 0.6)), slit), lips


def missing(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A piece replaced by the ground, or by the blurred surface of a texture."""
    opacity = soft(depth_of_blob(rng, scene, centre, q * rng.uniform(0.5, 0.95)), 1.5)
    if scene.background is not None:
        return paint(scene.image, scene.background, opacity), opacity
    blurred = ndimage.gaussian_filter(scene.image, (5, 5, 0))
    return paint(scene.image, np.clip(blurred + rng.choice([-1, 1]) * rng.uniform(0.08, 0.25), 0, 1), opacity), opacity


def broken(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """An angular piece broken off at the border, with a thin bright or dark edge."""
    size, count = len(scene.image), int(rng.integers(4, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = q * rng.uniform(0.5, 1.2, count)
    canvas = Image.new("L", (3 * size, 3 * size))
    corners = [
        (3 * (centre[1] + r * np.cos(a)), 3 * (centre[0] + r * np.sin(a))) for r, a in zip(radii, angles, strict=True)
    ]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    opacity = np.asarray(canvas.reduce(3), np.float32) / 255
    edge = np.clip(ndimage.gaussian_filter(opacity, 0.9) * 2, 0, 1)
    image = paint(scene.image, np.clip(_spot_colour(scene, centre) + rng.choice([-0.25, 0.25]), 0, 1), edge)
    return paint(image, _beneath(rng, scene), opacity), np.maximum(edge, opacity)


def fold(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A ridge: one flank bright, the other dark."""
    dy, dx, _, _ = _polar(scene.image.shape, centre)
    angle, width, length = turn(rng), q * rng.uniform(0.15, 0.3), q * rng.uniform(1.2, 2.5)
    across, along = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    across = across + rng.uniform(-0.01, 0.01) * along**2
    envelope = np.exp(-0.5 * (across / width) ** 2) * soft(length - np.abs(along), 4)
    shading = 1.65 * across / width * envelope
    return scene.image + (rng.uniform(0.2, 0.45) * shading)[..., None], np.abs(shading).astype(np.float32)


def misprint(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """Two or three saturated zigzag strokes."""
    size, angle = len(scene.image), turn(rng)
    colour = hsv(rng.random(), rng.uniform(0.7, 1), rng.uniform(0.3, 1))
    opacity = np.zeros((size, size), np.float32)
    for row in range(rng.integers(2, 4)):
        points = []
        for k in range(rng.integers(5, 9)):
            along, across = (k - 3) * q / 4, (row - 1) * q / 2.5 + (q / 7 if k % 2 else -q / 7) + rng.normal(0, 0.5)
            points.append(
                (
                    centre[0] + along * np.sin(angle) + across * np.cos(angle),
                    centre[1] + along * np.cos(angle) - across * np.sin(angle),
                )
            )
        opacity = np.maximum(opacity, stroke(size, points, rng.uniform(1, 2) * size / 96))
    return paint(scene.image, colour, opacity), opacity


def discolor(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A blob with permuted or scaled colour channels."""
    opacity = soft(depth_of_blob(rng, scene, centre, q * rng.uniform(0.6, 1.1)), rng.uniform(1.5, 5))
    scaled = scene.image * rng.uniform(0.4, 1.6, 3).astype(np.float32)
    changed = scene.image[..., rng.permutation(3)] if rng.random() < 0.4 else scaled
    return paint(scene.image, np.clip(changed, 0, 1), opacity), opacity


def misplaced(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A piece copied from elsewhere in the picture, turned by a quarter."""
    size = len(scene.image)
    turned = np.rot90(scene.image, int(rng.choice([1, 3])))
    changed = np.roll(turned, tuple(rng.integers(size // 4, 3 * size // 4, 2)), (0, 1))
    opacity = soft(depth_of_blob(rng, scene, centre, q * rng.uniform(0.6, 1.0)), 1.5)
    return paint(scene.image, changed, opacity), opacity


def burn(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A dark blob with a brown ring."""
    depth = depth_of_blob(rng, scene, centre, q * rng.uniform(0.4, 0.8)) + 0.8 * field(rng, len(scene.image), 4)
    ring, core = soft(depth + q * 0.2, q * 0.4), soft(depth, q * 0.3)
    image = paint(
        scene.image, scene.image * np.array([0.6, 0.4, 0.25], np.float32), ring * np.float32(rng.uniform(0.6, 1))
    )
    return paint(image, np.full(3, rng.uniform(0.02, 0.12)), core * np.float32(rng.uniform(0.7, 1))), ring


def smear(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A blob blurred along one direction."""
    axis, length = int(rng.integers(2)), q * rng.uniform(0.8, 1.6)
    blurred = ndimage.uniform_filter1d(scene.image, max(3, int(length)), axis=axis)
    blurred = ndimage.uniform_filter1d(blurred, 3, axis=1 - axis) + np.float32(rng.normal(0, 0.05))
    opacity = soft(depth_of_blob(rng, scene, centre, q * rng.uniform(0.7, 1.2)), 3)
    return paint(scene.image, np.clip(blurred, 0, 1), opacity), opacity


def bubble(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """Bright rings with a highlight."""
    image, total = scene.image, np.zeros(scene.image.shape[:2], np.float32)
    for _ in range(rng.integers(1, 5)):
        middle = (centre[0] + rng.normal(0, q / 2.5), centre[1] + rng.normal(0, q / 2.5))
        radius = q * rng.uniform(0.2, 0.45)
        distance = _polar(image.shape, middle)[2]
        ring = np.exp(-0.5 * ((distance - radius) / max(0.9, radius * 0.15)) ** 2)
        light = np.exp(
            -0.5 * (_polar(image.shape, (middle[0] - radius / 3, middle[1] - radius / 3))[2] / (radius / 4)) ** 2
        )
        image = image + (rng.uniform(0.2, 0.45) * ring + rng.uniform(0.2, 0.5) * light)[..., None]
        total = np.maximum(total, np.maximum(ring, soft(radius - distance, 2)))
    return image, total


def thread(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A thin curved coloured fibre."""
    size, angle = len(scene.image), turn(rng)
    length = q * rng.uniform(2, 4)
    start = (centre[0] - length / 2 * np.sin(angle), centre[1] - length / 2 * np.cos(angle))
    opacity = stroke(size, _walk(rng, start, length, angle, 0.3, 16), rng.uniform(0.8, 1.6) * size / 96)
    return paint(scene.image, any_colour(rng), opacity), opacity


def dent(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """Local shading, bright on one side and dark on the other."""
    dy, dx, distance, _ = _polar(scene.image.shape, centre)
    radius, angle = q * rng.uniform(0.35, 0.6), turn(rng)
    slope = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    envelope = np.exp(-0.5 * (distance / radius) ** 2)
    image = scene.image + (rng.uniform(0.25, 0.5) * 1.65 * slope * envelope)[..., None]
    return image, (envelope * 1.2).clip(0, 1).astype(np.float32) * (envelope > 0.3)


def glue(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A translucent blob with a highlight and a rim."""
    radius = q * rng.uniform(0.5, 0.9)
    depth = depth_of_blob(rng, scene, centre, radius)
    opacity = soft(depth, 1.5)
    image = paint(
        scene.image,
        hsv(rng.uniform(0.08, 0.2), rng.uniform(0, 0.5), rng.uniform(0.7, 1)),
        opacity * np.float32(rng.uniform(0.25, 0.5)),
    )
    image = image - rng.uniform(0.1, 0.3) * np.exp(-0.5 * (depth / 1.0) ** 2)[..., None]
    spot = _polar(scene.image.shape, (centre[0] - radius * 0.35, centre[1] - radius * 0.35))[2]
    return image + rng.uniform(0.3, 0.6) * np.exp(-0.5 * (spot / (radius * 0.25)) ** 2)[..., None], opacity


def bend(rng: np.random.Generator, scene: Scene, centre: Centre, q: float) -> tuple[FloatArray, FloatArray]:
    """A local swirl of the picture."""
    dy, dx, distance, _ = _polar(scene.image.shape, centre)
    radius = q * rng.uniform(0.8, 1.4)
    envelope = np.clip(1 - (distance / radius) ** 2, 0, 1)
    angle = rng.choice([-1, 1]) * rng.uniform(1.2, 2.5) * envelope
    y = centre[0] + np.cos(angle) * dy + np.sin(angle) * dx
    x = centre[1] - np.sin(angle) * dy + np.cos(angle) * dx
    image = np.stack(
        [ndimage.map_coordinates(scene.image[..., c], (y, x), order=1, mode="reflect") for c in range(3)], -1
    )
    return image, np.clip(envelope * 1.5, 0, 1).astype(np.float32)


SEEN_DEFECTS: dict[str, Defect] = named(
    scratch,
    crack,
    hole,
    stain,
    contamination,
    cut,
    missing,
    broken,
    fold,
    misprint,
    discolor,
    misplaced,
    burn,
    smear,
    bubble,
)
"""Defects that the mini CLIP was trained on."""

HELD_OUT_DEFECTS: dict[str, Defect] = named(thread, dent, glue, bend)
"""Defects that the mini CLIP never saw, neither as pictures nor as words."""

DEFECTS: dict[str, Defect] = {**SEEN_DEFECTS, **HELD_OUT_DEFECTS}
"""All defects by name."""

ON_TOP = frozenset({"contamination", "misprint", "stain", "thread", "glue"})
"""Defects that lie on the object and may reach over its border; all others stay on it."""
