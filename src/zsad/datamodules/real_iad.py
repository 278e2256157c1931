"""Real-IAD: 30 industrial objects from five sides."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from zsad.datamodules.base import BenchmarkDataModule
from zsad.images.manifest import ManifestError
from zsad.types import Record


class RealIAD(BenchmarkDataModule):
    """Real-IAD: 30 classes of industrial objects, each photographed from five sides.

    Layout (read in anomalib's code, not on the files): images below ``realiad_<resolution>/<class>/`` as listed in
    ``realiad_jsons/realiad_jsons/<class>.json`` (all views; ``realiad_jsons_sv`` for the single-view split), entries
    with ``image_path``, ``mask_path`` and ``anomaly_class``, of which ``"OK"`` is normal.

    Terms: CC BY-NC-SA 4.0.

    Args:
        root: Folder of the image and list folders.
        resolution: Which copy of the images.
        views: All views, or the split that uses one.
        **options: Those of :class:`~zsad.datamodules.base.BenchmarkDataModule`.
    """

    name = "real_iad"

    def __init__(
        self,
        root: str | Path,
        resolution: Literal["256", "512", "1024", "raw"] = "1024",
        views: Literal["multi", "single"] = "multi",
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        if resolution not in ("256", "512", "1024", "raw"):
            raise ValueError(f"resolution must be '256', '512', '1024' or 'raw', got {resolution!r}.")
        self.resolution = resolution
        self.views = views

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records of the lists.

        Raises:
            ManifestError: A list is not understood.
        """
        assert self.facts is not None
        images = f"realiad_{self.resolution}"
        lists = "realiad_jsons" if self.views == "multi" else "realiad_jsons_sv"
        root = self.locate(lambda path: (path / images).is_dir(), f"'{images}'")
        folder = next(
            (path for path in (root / "realiad_jsons" / lists, root / lists) if any(path.glob("*.json"))), None
        )
        if folder is None:
            raise self.missing(f"'{lists}/<class>.json' not found")
        for name in self.classes or self.facts.classes:
            if (path := folder / f"{name}.json").is_file():
                yield from self._listed(path, root / images / name, name, split)

    def _listed(self, path: Path, folder: Path, name: str, split: str) -> Iterator[Record]:
        try:
            entries = json.loads(path.read_text(encoding="utf-8")).get(split, [])
            rows = [(one["image_path"], one.get("mask_path"), one["anomaly_class"]) for one in entries]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ManifestError(
                f"'{path}' is not a list of Real-IAD, {{'{split}': [{{image_path, mask_path, anomaly_class}}]}}: "
                f"{type(error).__name__} {error}."
            ) from error
        for image, mask, defect in rows:
            anomalous = defect != "OK"
            yield Record(folder / image, name, int(anomalous), folder / mask if mask and anomalous else None, defect)
