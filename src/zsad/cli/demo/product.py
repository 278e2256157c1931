"""A product that the embedded model never saw: flawless pictures, and a mixed folder of which the truth is known."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from zsad.synthetic import HELD_OUT_DEFECTS, SyntheticSample, generate

CLASS = "leather"
"""One of the held-out classes."""

GOOD, NEW, EVERY = 50, 200, 5
"""Pictures to calibrate on, pictures to judge, and how many of the latter come for each defective one."""

_SEEDS = 3 * 10**12  # neither those of pretraining nor those of the test sets


@dataclass(frozen=True)
class Product:
    """The folders of the story.

    Args:
        folder: Holds ``good`` and ``new``, and gets the results of the steps.
        truth: File name in ``new`` -> what was drawn.
    """

    folder: Path
    truth: dict[str, SyntheticSample]

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

    def normal(self) -> list[str]:
        """Return the names of the flawless pictures among the new ones."""
        return [name for name, sample in self.truth.items() if not sample.defect]


def draw(folder: Path, seed: int, good: int = GOOD, new: int = NEW) -> Product:
    """Write ``good`` flawless and ``new`` mixed pictures; return what they show."""
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
    return Product(folder, truth)


def _save(sample: SyntheticSample, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.image).save(path)


def digest(sample: SyntheticSample) -> str:
    """Return a name of a picture that depends on its content only, in the place of a file's."""
    return f"{hashlib.sha256(np.ascontiguousarray(sample.image).tobytes()).hexdigest()}.png"
