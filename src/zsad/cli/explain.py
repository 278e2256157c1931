"""``zsad score --explain [KIND]``: what a score goes back to, in the rows and in pictures."""

import argparse
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsad.inference import Result
    from zsad.inference.base import BasePredictor

OWN = "own"
"""What the method itself says."""

RELEVANCE = "transmm"
"""Relevance of patches."""


def add_explain_option(made: argparse.ArgumentParser) -> None:
    """Add ``--explain [KIND]``."""
    made.add_argument(
        "--explain",
        nargs="?",
        const=OWN,
        choices=(OWN, RELEVANCE),
        metavar="KIND",
        help="alone: what the method itself says of each image, in the JSON lines (ALFA); 'transmm': pictures of the "
        "patches that the image score goes back to, for methods that compare the class token with text",
    )


class Explanations:
    """Adds what was asked for to the results of a run.

    Args:
        kind: :data:`OWN`, which the predictor sees to, ``"transmm"`` or None.
        model: What scores.
        folder: Of the run; pictures go below its ``explanations``.
        size: Longer side of the pictures at most.

    Raises:
        ValueError: The method's image score is not the class token's.
    """

    def __init__(self, kind: str | None, model: "BasePredictor", folder: Path, size: int) -> None:
        from zsad.inference.predictor import Predictor

        self._explained = model.relevance() if kind == RELEVANCE and isinstance(model, Predictor) else None
        self._folder, self._size = folder, size

    def of(self, batch: "Sequence[Result]") -> "list[Result]":
        """Return the results of a batch with their explanations, whose pictures are written."""
        if self._explained is None:
            return list(batch)
        shown = [result for result in batch if result.error is None]
        paths, names = [one.image_path for one in shown], [one.class_name for one in shown]
        made: dict[str | None, str] = {}
        for results in self._explained.batches(paths, names, size=self._size):
            made |= {one.image_path: self._save(one) for one in results if one.error is None}
        return [
            replace(one, explanation={"kind": RELEVANCE, "overlay": made[one.image_path]})
            if one.image_path in made
            else one
            for one in batch
        ]

    def _save(self, result: "Result") -> str:
        path = str(result.image_path)
        digest = hashlib.blake2b(os.fsencode(path), digest_size=6).hexdigest()
        stem = Path(path).stem.encode("utf-8", "replace")[:80].decode("utf-8", "ignore")  # bytes: of 255 in all
        below = Path("explanations", digest[:2], f"{stem}-{digest}.jpg")
        result.save(self._folder / below)
        return below.as_posix()
