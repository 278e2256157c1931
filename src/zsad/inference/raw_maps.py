"""Raw anomaly maps beside the rows of a run: needed to evaluate, to relabel with regions, and to cut regions later."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsad.images.maps import write_map
from zsad.images.overlay import MAP_FORMATS, MapFormat
from zsad.inference.overlays import written
from zsad.inference.result import Result

FOLDER = "maps"


@dataclass(frozen=True)
class RawMaps:
    """How the maps of a run are written.

    Args:
        format: ``"npy"`` keeps single precision. ``"tiff16"`` keeps 65,536 levels between the least and the largest
            value of each map, which stand in the file's description; :func:`zsad.images.maps.read_map` undoes it.
        longest: Longer side in pixels, with the picture's proportions; None keeps the model's own size, of which
            regions come out as if they had been looked for at once.

    Raises:
        ValueError: The format is unknown, or the side is less than 1.
    """

    format: MapFormat
    longest: int | None = None

    def __post_init__(self) -> None:
        if self.format not in MAP_FORMATS:
            raise ValueError(f"Maps are written as {' or '.join(MAP_FORMATS)}, got '{self.format}'.")
        if self.longest is not None and self.longest < 1:
            raise ValueError(f"The longer side of a map must be at least 1 pixel, got {self.longest}.")

    def save(self, result: Result, folder: Path, name: str) -> dict[str, str]:
        """Write the map of a result and return its path, ``map`` of a row, or what went wrong, its ``error``.

        Args:
            result: Of an image that has a score.
            folder: Of the run.
            name: Path of the map without its ending, below the run's folder.
        """
        name = f"{name}.{'npy' if self.format == 'npy' else 'tiff'}"
        wrong = written(folder / name, f"map '{name}'", lambda path: write_map(path, self.of(result)))
        return {"map": name} if wrong is None else {"error": wrong}

    def of(self, result: Result) -> NDArray[np.float32]:
        """Return the map that is written, (height, width)."""
        own = result.anomaly_map if result.model_map is None else result.model_map
        if self.longest is None or result.enlarge is None:
            return own
        height, width = result.source_size or own.shape
        scale = self.longest / max(height, width)
        return result.enlarge(own, (max(1, round(height * scale)), max(1, round(width * scale))))
