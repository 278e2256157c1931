"""A product that the embedded model never saw: good parts, a mixed folder and a large photo whose truth is known."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.synthetic import HELD_OUT_DEFECTS, SyntheticSample, generate

CLASS = "leather"
"""One of the held-out classes."""

GOOD, NEW, EVERY = 50, 200, 5
"""Pictures to calibrate on, pictures to judge, and how many of the latter come for each defective one."""

PHOTO, SPOTS = 1152, ("thread", "dent", "glue")
"""Side of the large photo in pixels, twelve times that of the other pictures, and the defects in it."""

_SEEDS = 3 * 10**12  # neither those of pretraining nor those of the test sets


@dataclass(frozen=True)
class Product:
    """The folders of the story.

    Args:
        folder: Holds ``good``, ``new`` and ``photo.png``, and gets the results of the steps.
        truth: File name in ``new`` -> what was drawn.
        marked: Where the defects of the large photo are, (:data:`PHOTO`, :data:`PHOTO`) bool.
    """

    folder: Path
    truth: dict[str, SyntheticSample]
    marked: NDArray[np.bool_]

    @property
    def calibration(self) -> list[Path]:
        """The flawless pictures to calibrate on."""
        return sorted(self.good.glob("*.png"))

    @property
    def good(self) -> Path:
        """Flawless pictures."""
        return self.folder / "good"

    @property
    def new(self) -> Path:
        """Pictures to judge."""
        return self.folder / "new"

    @property
    def photo(self) -> Path:
        """The large photo."""
        return self.folder / "photo.png"

    def normal(self) -> list[str]:
        """Return the names of the flawless pictures among the new ones."""
        return [name for name, sample in self.truth.items() if not sample.defect]


def draw(folder: Path, seed: int, good: int = GOOD, new: int = NEW) -> Product:
    """Write ``good`` flawless and ``new`` mixed pictures; return what they show.

    The large photo is drawn as well. What an earlier run shipped is removed: ``zsad export`` wants a new folder.
    """
    shutil.rmtree(folder / "shipped", ignore_errors=True)
    start, kinds = _SEEDS + 10**6 * seed, list(HELD_OUT_DEFECTS)
    for number in range(good):
        _save(generate(CLASS, "", start + number), folder / "good" / f"{number:03d}.png")
    truth = {}
    for number in range(new):
        turn, place = divmod(number, EVERY)
        defect = kinds[turn % len(kinds)] if place == EVERY - 1 else ""
        truth[f"{number:03d}.png"] = generate(CLASS, defect, start + good + number)
    for name, sample in truth.items():
        _save(sample, folder / "new" / name)
    photo, marked = _large_photo(start + good + new)
    Image.fromarray(photo).save(folder / "photo.png")
    return Product(folder, truth, marked)


def _large_photo(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a piece of the product at full sharpness with defects as small as in the other pictures, and where."""
    photo = generate(CLASS, "", seed, PHOTO).image.astype(np.float32)
    marked = np.zeros(photo.shape[:2], bool)
    places = np.random.default_rng(seed).integers(0, PHOTO // 96, (len(SPOTS), 2))
    for number, (defect, place) in enumerate(zip(SPOTS, places, strict=True)):
        # what a defect changes in a small picture, carried over: neighbours differ by the defect alone
        bad, twin = (generate(CLASS, kind, seed + number, 96, with_camera=False) for kind in (defect, ""))
        here = tuple(slice(96 * at, 96 * at + 96) for at in place)
        photo[here] += bad.image.astype(np.float32) - twin.image
        marked[here] |= bad.mask
    return np.clip(photo, 0, 255).astype(np.uint8), marked


def _save(sample: SyntheticSample, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.image).save(path)


def digest(sample: SyntheticSample) -> str:
    """Return a name of a picture that depends on its content only, in the place of a file's."""
    return f"{hashlib.sha256(np.ascontiguousarray(sample.image).tobytes()).hexdigest()}.png"
