"""What a method says of one image."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageShow

from zsad.images import ImageError, Size
from zsad.images.overlay import Limits, Scale, limits_of, overlay
from zsad.inference.files import FileFacts


@dataclass(frozen=True, eq=False)
class Result:
    """What a method says of one image.

    Scores rank images; there is no value above which an image is defective for every method, backbone and product.
    Hence :attr:`pred_label` exists only if a threshold was given, best one chosen on images of the same product.
    """

    pred_score: float
    """Larger is more anomalous; NaN if the image could not be read."""
    anomaly_map: NDArray[np.float32]
    """(height, width), larger is more anomalous; empty if the image could not be read."""
    image: Image.Image = field(repr=False)
    """RGB picture of the map's size, 1 x 1 if the image could not be read."""
    class_name: str
    image_path: str | None = None
    """None for a picture that came from memory."""
    threshold: float | None = None
    error: str | None = None
    """What is wrong with the file; None if all is well."""
    map_range: Limits | None = field(default=None, repr=False)
    """Range of the maps as the method declares it, the default scale of heat maps."""
    explanation: tuple[tuple[str, float], ...] | Mapping[str, str] = field(default=(), repr=False)
    """Descriptors that fit the image best with their cosines, the best first; or the kind of another explanation and
    where its picture is. Empty unless asked for."""
    warning: str | None = None
    """What makes the score doubtful; None if nothing does."""
    source_size: Size | None = field(default=None, repr=False)
    """(height, width) of the upright picture, whatever size the result has; None if it could not be read."""
    file: FileFacts | None = field(default=None, repr=False)
    """Size and time of the file when it was read; None for a picture that came from memory or is not there."""

    @property
    def pred_label(self) -> int | None:
        """1 if the score reaches the threshold, 0 if not, None without a threshold or a score."""
        return None if self.threshold is None or self.error is not None else label_of(self.pred_score, self.threshold)

    def __repr__(self) -> str:
        what = f"{self.image_path!r}, class_name={self.class_name!r}"
        if self.error is not None:
            return f"Result({what}, error={self.error!r})"
        label = "" if self.pred_label is None else f", pred_label={self.pred_label}"
        rows, columns = self.anomaly_map.shape
        low, high = self.anomaly_map.min(), self.anomaly_map.max()
        values = f"anomaly_map={rows}x{columns} in [{low:.4f}, {high:.4f}]"
        return f"Result({what}, pred_score={self.pred_score:.4f}{label}, {values})"

    def overlay(self, scale: Scale = None, opacity: float = 0.65) -> Image.Image:
        """Return the image with the anomaly map over it in colours, dark violet for low, pale yellow for high values.

        Args:
            scale: Values of the first and the last colour. None takes the range that the method declares, so that
                pictures of the same method compare; ``"image"`` takes the map's own range, which shows structure where
                the fixed scale shows none, and a "defect" in every normal image.
            opacity: Share of the colour at the upper end.

        Raises:
            ImageError: The image could not be read.
        """
        if self.error is not None:
            raise ImageError(f"There is no heat map: {self.error}")
        return overlay(self.image, self.anomaly_map, limits_of(self.anomaly_map, scale, self.map_range), opacity)

    def save(self, path: str | Path, scale: Scale = None, opacity: float = 0.65) -> Path:
        """Write the overlay as a picture, or the raw map if the name ends in ``.npy``; folders are made.

        Args:
            path: File to write, its ending says the format; or a folder (one that exists, or a name that ends in
                ``/``), which gets a PNG picture named as the image.
            scale: As for :meth:`overlay`.
            opacity: As for :meth:`overlay`.

        Returns:
            The file's path.

        Raises:
            ValueError: The ending is unknown, or a folder is given for a picture from memory, which has no name.
            ImageError: The image could not be read.
        """
        folder = Path(path).is_dir() or os.fspath(path).endswith(("/", os.sep))
        path = Path(path)
        if folder:
            if self.image_path is None:
                raise ValueError(f"This picture came from memory and has no name: give a file, e.g. '{path}/map.png'.")
            path /= f"{Path(self.image_path).stem}.png"
        if path.suffix.lower() not in {".npy", *Image.registered_extensions()}:
            raise ValueError(f"Cannot save '{path}': its name must end in .png, .jpg, another picture format or .npy.")
        picture = self.overlay(scale, opacity)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".npy":
            np.save(path, self.anomaly_map)
        else:
            picture.save(path)
        return path

    def show(self, scale: Scale = None, opacity: float = 0.65) -> None:
        """Open the overlay in the desktop's picture viewer (a notebook shows a result by itself).

        Raises:
            RuntimeError: There is no viewer, as on a machine without a screen.
        """
        if not ImageShow.show(self.overlay(scale, opacity)):
            raise RuntimeError("No picture viewer was found on this machine: use save('heat_map.png') instead.")

    def _repr_png_(self) -> bytes | None:
        if self.error is not None:
            return None
        data = BytesIO()
        self.overlay().save(data, "png")
        return data.getvalue()


def label_of(score: float, threshold: float) -> int:
    """Return 1 if a score reaches a threshold, else 0, both in single precision.

    Scores are single precision; a threshold that is copied from a row labels that row.
    """
    return int(np.float32(score) >= np.float32(threshold))
