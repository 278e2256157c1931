"""SDD: electrical commutators (KolektorSDD), cut into halves."""

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.facts import Counts
from zsad.datamodules.layout import child, folders_in, images_in, mvtec_class, pair
from zsad.images import load_mask
from zsad.types import Record

CLASS_NAME = "electrical commutators"
PREPARED = "prepared.json"
"""File that says how a prepared copy was made."""
_ITEM, _PART = re.compile(r"kos\d+$", re.IGNORECASE), re.compile(r"part\d+$", re.IGNORECASE)


class SDD(BenchmarkDataModule):
    """KolektorSDD: commutator surfaces, each image cut across its height; a piece is anomalous if its mask is marked.

    Vendor's layout: ``kos01/Part0.jpg`` with ``kos01/Part0_label.bmp``; palette files, whose index counts. Cutting is
    done while reading: top pieces are the smaller ones. Three published recipes differ, and so do their counts
    (normal + anomalous): halves 731 + 67, thirds 1143 + 54, thirds with a quarter of the normal ones 286 + 54, uncut
    347 + 52. The 181 + 74 of AnomalyCLIP's table come only from its authors' pre-cut archive, which is read as well:
    ``electrical_commutators/{test/good,test/defect,ground_truth/defect}``.

    The vendor's archive repeats items (kos26 is kos01, kos34 is kos27), with other labels.

    Terms: CC BY-NC-SA 4.0.

    Args:
        root: Folder of the ``kos*`` folders, or of the pre-cut class folder.
        pieces: Parts per image, for the vendor's layout.
        normal_fraction: Keep this part (rounded up) of the normal pieces, drawn with ``seed``.
        **options: Those of :class:`~zsad.datamodules.base.BenchmarkDataModule`.
    """

    name = "sdd"

    def __init__(
        self, root: str | Path, pieces: Literal[1, 2, 3] = 2, normal_fraction: float = 1.0, **options: Any
    ) -> None:
        if pieces not in (1, 2, 3):
            raise ValueError(f"pieces must be 1, 2 or 3, got {pieces!r}.")
        if not 0 < normal_fraction <= 1:
            raise ValueError(f"normal_fraction must be above 0 and at most 1, got {normal_fraction}.")
        super().__init__(root, **options)
        self.pieces = pieces
        self.normal_fraction = normal_fraction

    def spell_class(self, name: object) -> str:
        """Return the class with a space, also where it was given with an underscore."""
        return str(name).replace("_", " ")

    def expected_counts(self) -> Counts:
        """Return what the recipe gives; nothing for a recipe that nobody published."""
        assert self.facts is not None
        pieces, fraction = self.pieces, self.normal_fraction
        if (folder := self._pre_cut()) is not None:
            note = next((path for path in (folder / PREPARED, folder.parent / PREPARED) if path.is_file()), None)
            if note is None:
                return dict(self.facts.counts)  # the archive of AnomalyCLIP's authors
            made = json.loads(note.read_text(encoding="utf-8"))
            pieces, fraction = made["pieces"], made["normal_fraction"]
        recipes = {
            (1, 1.0): "vendor_archive_uncut",
            (2, 1.0): "vendor_archive_halves_all",
            (3, 1.0): "vendor_archive_thirds_all",
            (3, 0.25): "vendor_archive_thirds_quarter_normals",
        }
        recipe = recipes.get((pieces, fraction))
        if recipe is None:
            return {}
        counts = self.facts.alternative_counts[recipe]
        return {CLASS_NAME: (counts["normal"], counts["anomalous"])}

    def records(self, split: str) -> Iterator[Record]:
        """Yield the pre-cut records, or the pieces of the vendor's images (which have a test part only)."""
        if (folder := self._pre_cut()) is not None:
            yield from mvtec_class(folder, CLASS_NAME, split)
            return
        root = self.locate(
            lambda path: any(_ITEM.match(folder.name) for folder in folders_in(path)), "kos*/Part*.jpg or pre-cut tree"
        )
        if split != "test":
            raise self.missing(f"no part '{split}' (the vendor's archive is not split)")
        pieces = list(self._pieces(root))
        normal = [piece for piece in pieces if piece.label == 0]
        kept = math.ceil(self.normal_fraction * len(normal))
        order = np.random.default_rng(self.seed).permutation(len(normal)) if kept < len(normal) else range(kept)
        yield from (normal[i] for i in order[:kept])
        yield from (piece for piece in pieces if piece.label == 1)

    def _pieces(self, root: Path) -> Iterator[Record]:
        for item in folders_in(root):
            if not _ITEM.match(item.name):
                continue
            files = images_in(item)  # deeper folders in some copies are stray nested items
            images = [path for path in files if _PART.match(path.stem)]
            labels = [path for path in files if path.stem.lower().endswith("_label")]
            for image, label in pair(images, labels, ("_label",)).items():
                marked = load_mask(label, self.mask_threshold)
                for box in cuts(marked, self.pieces):
                    anomalous = bool(marked[box[1] : box[3]].any())
                    whole = self.pieces == 1
                    yield Record(
                        image, CLASS_NAME, int(anomalous), label, "defect" if anomalous else "", None if whole else box
                    )

    def _pre_cut(self) -> Path | None:
        names = (CLASS_NAME, CLASS_NAME.replace(" ", "_"))
        folders = (child(place, *names) for place in (self.root, *folders_in(self.root)))
        return next((folder for folder in (*folders, self.root) if folder and (folder / "test").is_dir()), None)


def cuts(mask: NDArray[np.bool_], pieces: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes (left, top, right, bottom) of an image cut into pieces along its height, from the top."""
    height, width = mask.shape
    edges = [height * number // pieces for number in range(pieces + 1)]
    yield from ((0, top, width, bottom) for top, bottom in itertools.pairwise(edges))
