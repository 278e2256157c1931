"""What a method says of one image."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.decision.entry import ClassEntry, Decision
from zsad.decision.regions import MOST, Region, calibrated_regions, rasterise
from zsad.decision.regions import regions as find_regions
from zsad.images.overlay import Limits, Scale, limits_of, outline, overlay
from zsad.images.picture import ImageError, Size
from zsad.images.where import greyed

if TYPE_CHECKING:
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
    file: "FileFacts | None" = field(default=None, repr=False)
    """Size and time of the file when it was read; None for a picture that came from memory or is not there."""
    fitting_window: tuple[float, float] | None = field(default=None, repr=False)
    """The window that would fit, if the grey levels use less than an eighth of their container's range."""

    calibration: ClassEntry | None = field(default=None, repr=False)
    """What a card knows of the class; None without one."""
    model_map: NDArray[np.float32] | None = field(default=None, repr=False)
    """The map at the model's own size, where regions are looked for and the result has another size."""
    enlarge: Callable[[NDArray[np.float32], Size], NDArray[np.float32]] | None = field(default=None, repr=False)
    """Brings :attr:`model_map` to another size (height, width)."""

    left_out: NDArray[np.bool_] | None = field(default=None, repr=False)
    """Pixels of the map that do not count, drawn in grey; None if all do."""
    where: Mapping[str, str | None] | None = field(default=None, repr=False)
    """Region of interest and hash of the mask of what does not count; None for the whole picture."""
    tiles: Mapping[str, Any] | None = field(default=None, repr=False)
    """How the picture was cut, what its score is of its tiles', and their number ``n``; None if it was scored whole."""

    @cached_property
    def decision(self) -> Decision | None:
        """What the calibration says of the score; None without one or without a score."""
        if self.calibration is None or self.error is not None:
            return None
        return self.calibration.decide(self.pred_score, self.n_regions or 0)

    @property
    def p_value(self) -> float | None:
        """Share of normal images that score at least as high, this one counted; None without a calibration."""
        return None if self.decision is None else self.decision.p_value

    @property
    def n_regions(self) -> int | None:
        """Number of anomalous regions, those that :meth:`regions` leaves out too; None if maps are not calibrated."""
        return None if self._regions is None else self._regions[1]

    def regions(self, threshold: float | None = None, min_area: int = 0) -> list[Region]:
        """Return the anomalous regions in pixels of the upright image, those with the largest values first.

        Args:
            threshold: A pixel belongs to a region from this value on; by default the calibration's, with its p-values.
            min_area: Least number of pixels, with a threshold.

        Raises:
            ValueError: There is neither a threshold nor a calibration of maps.
            ImageError: The image could not be read.
        """
        if self.error is not None:
            raise ImageError(f"There are no regions: {self.error}")
        if threshold is not None:
            return find_regions(self._native_map(), threshold, min_area, MOST)
        if self._regions is None:
            raise ValueError(
                "Regions need a threshold of the map: calibrate it ('zsad calibrate ... --regions', then "
                "load_model(..., calibration=card)), or give one, regions(threshold=...)."
            )
        return list(self._regions[0])

    @cached_property
    def _regions(self) -> tuple[list[Region], int] | None:
        rule = None if self.calibration is None else self.calibration.regions
        return None if rule is None or self.error is not None else calibrated_regions(self._native_map(), rule)

    def _native_map(self) -> NDArray[np.float32]:
        size = self.source_size or self.anomaly_map.shape
        if self.model_map is None or self.enlarge is None or self.anomaly_map.shape == size:
            return self.anomaly_map
        return self.enlarge(self.model_map, (size[0], size[1]))

    def _outlines(self, picture: Image.Image) -> Image.Image:
        """The picture with a line around each calibrated region."""
        if self._regions is None or not any(one.rings for one in self._regions[0]):
            return picture
        rows, columns = self.source_size or self.anomaly_map.shape
        x_scale, y_scale = picture.width / columns, picture.height / rows
        mask = np.zeros((picture.height, picture.width), dtype=np.bool_)
        for one in self._regions[0]:
            rings = [tuple((x * x_scale, y * y_scale) for x, y in ring) for ring in one.rings]
            mask |= rasterise(rings, picture.height, picture.width)
        return outline(picture, mask)

    @property
    def pred_label(self) -> int | None:
        """1 if the score reaches the threshold, 0 if not, None without a threshold or a score.

        With a calibration the label is the card's.
        """
        if self.decision is not None:
            return self.decision.label
        return None if self.threshold is None or self.error is not None else label_of(self.pred_score, self.threshold)

    def __repr__(self) -> str:
        what = f"{self.image_path!r}, class_name={self.class_name!r}"
        if self.error is not None:
            return f"Result({what}, error={self.error!r})"
        label = "" if self.pred_label is None else f", pred_label={self.pred_label}"
        if self.decision is not None and self.calibration is not None:
            alpha = self.calibration.alpha
            word, level = (
                ("normal", "anomalous")[self.decision.label],
                "" if alpha is None else f" at {100 * alpha:g} %",
            )
            label = f" (p={self.decision.p_value:.3f}, {word}{level})"
        rows, columns = self.anomaly_map.shape
        low, high = self.anomaly_map.min(), self.anomaly_map.max()
        values = f"anomaly_map={rows}x{columns} in [{low:.4f}, {high:.4f}]"
        return f"Result({what}, pred_score={self.pred_score:.4f}{label}, {values})"

    def overlay(self, scale: Scale = None, opacity: float = 0.65) -> Image.Image:
        """Return the image with the anomaly map over it in colours, dark violet for low, pale yellow for high values.

        With calibrated maps the regions are outlined. What was left out, by a region of interest or a mask, is grey.

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
        limits = limits_of(self.anomaly_map, scale, self.map_range)
        shown = overlay(self.image, self.anomaly_map, limits, opacity)
        return self._outlines(shown if self.left_out is None else greyed(shown, self.left_out))

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
        from PIL import ImageShow  # brings IPython with it, where there is one

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
