"""The proof of an export: the model and the written folder score the same pictures, one by one and in batches."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.decision.card import Card
from zsad.deploy.runtime import Runtime
from zsad.images import list_images, load_rgb
from zsad.inference.base import BasePredictor
from zsad.inference.inputs import pixel_digest
from zsad.inference.opening import Opened
from zsad.inference.outcome import Outcome

BATCH_SIZES = (1, 2, 5)
TOLERANCE = 1e-5
"""Allowed difference of scores and maps, times their range where that is above 1; up to 2e-6 was measured."""
MOST_CLASSES = 8
_PICTURES = 16


class VerificationError(ValueError):
    """A written folder does not say what the model says; the message names picture, batch size and figure."""


@dataclass(frozen=True)
class Difference:
    """How far the folder is from the model.

    Args:
        score: Greatest difference of scores.
        map: Greatest difference of maps.
        score_range: Greatest minus smallest score of the model.
        map_range: The same of maps.
    """

    score: float
    map: float
    score_range: float
    map_range: float


def pictures_for(folder: str | Path | None) -> dict[str, Image.Image]:
    """Return the pictures of a proof by name: sixteen generated ones of several sizes, and those of a folder.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    generated = {f"synthetic picture {number}": _generated(number) for number in range(_PICTURES)}
    if folder is None:
        return generated
    found = {str(path): load_rgb(path) for path in list_images([folder])}
    if not found:
        raise FileNotFoundError(f"No image to verify with under '{folder}'.")
    return generated | found


@dataclass(frozen=True)
class Comparison:
    """What a model and its folder say of the same pictures.

    Args:
        names: What each one is called, in messages and files.
        classes: The class that each was taken for.
        digests: Of the pixels of each picture.
        scores: (n,) of the model.
        maps: (n, height, width) of the model, at its own size.
        found: Batch size -> scores (n,) and maps (n, height, width) of the folder.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    digests: tuple[str, ...]
    scores: NDArray[np.float64]
    maps: NDArray[np.float32]
    found: dict[int, tuple[NDArray[np.float64], NDArray[np.float32]]]

    @property
    def difference(self) -> Difference:
        """The greatest differences over all batch sizes."""
        score = max(float(np.abs(scores - self.scores).max()) for scores, _ in self.found.values())
        map_ = max(float(np.abs(maps - self.maps).max()) for _, maps in self.found.values())
        return Difference(score, map_, float(np.ptp(self.scores)), float(np.ptp(self.maps)))


def compare(
    model: BasePredictor,
    runtime: Runtime,
    pictures: Mapping[str, Image.Image],
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Comparison:
    """Return what a model and its folder say of pictures as each of the first classes.

    Args:
        model: What was exported.
        runtime: The folder, read back.
        pictures: By name.
        batch_sizes: Of the folder's passes; one batch holds several classes.

    Raises:
        VerificationError: One of them scores a picture that the other refuses.
    """
    items = [(name, one, picture) for one in runtime.classes[:MOST_CLASSES] for name, picture in pictures.items()]
    said = _outcomes(model, items, 8)
    kept = [place for place, one in enumerate(said) if one.error is None]  # a picture may be one of the references
    if not kept:
        raise VerificationError(f"None of {len(pictures)} pictures could be scored: {said[0].error}")
    found = {}
    for size in batch_sizes:
        outcomes = _outcomes(runtime, items, size)
        for (name, _, _), a, b in zip(items, said, outcomes, strict=True):
            if (a.error is None) != (b.error is None):
                raise VerificationError(
                    f"{name}, batch size {size}: only one of the two has a score ({a.error or b.error})."
                )
        found[size] = _stacked([outcomes[place] for place in kept])
    scores, maps = _stacked([said[place] for place in kept])
    names, classes, shown = zip(*(items[place] for place in kept), strict=True)
    return Comparison(names, classes, tuple(map(pixel_digest, shown)), scores, maps, found)


def prove(seen: Comparison, tolerance: float = TOLERANCE, card: Card | None = None) -> None:
    """Raise unless a folder says what the model says, whatever the batch size.

    The order of scores then differs in pairs closer than twice the greatest difference only.

    Args:
        seen: By both.
        tolerance: Allowed difference of scores and maps, times their range where that is above 1.
        card: Labels must be equal.

    Raises:
        VerificationError: A difference is too great, or a label differs; it names picture, batch size and figure.
    """
    ranges = seen.difference
    for size, (scores, maps) in seen.found.items():
        apart = {
            "score": (np.abs(scores - seen.scores), tolerance * max(1.0, ranges.score_range)),
            "map": (np.abs(maps - seen.maps).max(axis=(1, 2)), tolerance * max(1.0, ranges.map_range)),
        }
        for what, (values, most) in apart.items():
            worst = int(np.argmax(values))
            if not values[worst] <= most:  # NaN fails as well
                raise VerificationError(
                    f"The exported graph differs from the model: {what} of '{seen.names[worst]}' as "
                    f"'{seen.classes[worst]}', batch size {size}, by {values[worst]:.3g}; allowed are {most:.3g}."
                )
        for place in flips(seen, scores, card):
            raise VerificationError(
                f"The exported graph gives '{seen.names[place]}' as '{seen.classes[place]}', batch size {size}, "
                f"another label under the card: score {scores[place]:.9g} for {seen.scores[place]:.9g} of the model."
            )


def flips(seen: Comparison, scores: NDArray[np.float64], card: Card | None) -> list[int]:
    """Return the places of those whose label under a card differs between the model and these scores."""
    if card is None:
        return []
    changed = []
    for place, name in enumerate(seen.classes):
        if card.pooled or name in card.classes:
            entry = card.entry(name)
            if entry.label(float(seen.scores[place])) != entry.label(float(scores[place])):
                changed.append(place)
    return changed


def proof(seen: Comparison, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``verify.json`` for one engine: figures, pictures, machine, versions."""
    return {
        **outcome,
        "difference": asdict(seen.difference),
        "batch_sizes": sorted(seen.found),
        "pictures": dict(sorted(zip(seen.names, seen.digests, strict=True))),
        "classes": list(dict.fromkeys(seen.classes)),
        "machine": {"system": platform.system(), "processor": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime", "openvino", "numpy", "pillow")},
    }


def version(name: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _outcomes(model: BasePredictor, items: Sequence[tuple[str, str, Image.Image]], batch_size: int) -> list[Outcome]:
    opened = [Opened(one, None, name, picture, model.prepare(picture)) for name, one, picture in items]
    batches = (opened[start : start + batch_size] for start in range(0, len(opened), batch_size))
    return [outcome for batch in batches for outcome in model.outcomes(batch)]


def _stacked(outcomes: Sequence[Outcome]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    return np.array([one.score for one in outcomes], dtype=np.float64), np.stack([one.map for one in outcomes])


def _generated(number: int) -> Image.Image:
    from zsad.synthetic import CLASSES, SEEN_DEFECTS, generate

    defect = sorted(SEEN_DEFECTS)[number // 2 % len(SEEN_DEFECTS)] if number % 2 else ""
    sample = generate(CLASSES[number % len(CLASSES)], defect, seed=number, size=(64, 96, 130)[number % 3])
    return Image.fromarray(sample.image).crop((0, 0, sample.image.shape[1], sample.image.shape[0] - number))
