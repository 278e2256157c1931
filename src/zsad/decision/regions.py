"""Regions of an anomaly map: where it is above a threshold, as boxes, areas and polygons with holes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsad.decision.components import boxes, components

if TYPE_CHECKING:
    from zsad.decision.entry import RegionRule

MOST = 100
"""Most regions that are kept of one image; the rest is counted."""

_TOLERANCE = 0.5

Ring = tuple[tuple[float, float], ...]
"""Corners (x, y) of a closed line, the first not repeated; the first pixel reaches from (0, 0) to (1, 1)."""


@dataclass(frozen=True)
class Region:
    """One connected region (diagonal neighbours touch), in pixels of the upright image."""

    area: int
    """Number of pixels."""
    box: tuple[int, int, int, int]
    """x, y, width, height; half-open: the pixel column x + width is outside."""
    centroid: tuple[float, float]
    """x, y."""
    max: float
    """Largest value of the map inside."""
    mean: float
    rings: tuple[Ring, ...]
    """The outline, then the holes."""
    p_value: float | None = None
    """Share of normal images with a region like it; None without a calibration."""

    @property
    def score(self) -> float:
        """1 - p, or the largest value without a calibration."""
        return self.max if self.p_value is None else 1 - self.p_value

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the region drawn from its rings, (height, width)."""
        return rasterise(self.rings, height, width)

    def to_json(self) -> dict[str, Any]:
        """Return the region as rows have it."""
        return {
            "area": self.area,
            "box": list(self.box),
            "centroid": [round(value, 2) for value in self.centroid],
            "max": float(f"{self.max:.7g}"),
            "mean": float(f"{self.mean:.7g}"),
            "p_value": self.p_value,
            "rings": [[[round(x, 2), round(y, 2)] for x, y in ring] for ring in self.rings],
        }

    @classmethod
    def from_json(cls, content: Any) -> "Region":
        """Return the region that :meth:`to_json` wrote.

        Raises:
            ValueError: A field is missing or of another kind.
        """
        try:
            x, y, width, height = (int(value) for value in content["box"])
            column, row = (float(value) for value in content["centroid"])
            rings = tuple(tuple((float(a), float(b)) for a, b in ring) for ring in content["rings"])
            p_value = None if content["p_value"] is None else float(content["p_value"])
            return cls(
                int(content["area"]), (x, y, width, height), (column, row),
                float(content["max"]), float(content["mean"]), rings, p_value,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"No region as 'zsad score --calibration' writes them: {error!r}.") from error


def regions(
    anomaly_map: NDArray[np.floating[Any]], threshold: float, min_area: int = 0, most: int | None = None
) -> list[Region]:
    """Return the connected regions where the map is at least ``threshold``, those with the largest values first.

    Args:
        anomaly_map: (height, width).
        threshold: A pixel belongs to a region if its value is at least this.
        min_area: Least number of pixels of a region.
        most: Most regions to return, all if None.

    Raises:
        ValueError: The map has other dimensions.
    """
    values = np.asarray(anomaly_map)
    if values.ndim != 2:
        raise ValueError(f"An anomaly map is (height, width), got {values.shape}.")
    found = _labelled(values, threshold, min_area)
    order = sorted(found, key=lambda one: (-one[2], -one[1], one[0].top, one[0].left))
    return [_region(*one) for one in order[:most]]


def count(anomaly_map: NDArray[np.floating[Any]], threshold: float, min_area: int = 0) -> int:
    """Return how many regions there are, without tracing them."""
    return len(_labelled(np.asarray(anomaly_map), threshold, min_area))


def largest_area(anomaly_map: NDArray[np.floating[Any]], threshold: float) -> int:
    """Return the number of pixels of the largest region, 0 if there is none."""
    return max((area for _, area, *_ in _labelled(np.asarray(anomaly_map), threshold, 0)), default=0)


def calibrated_regions(
    anomaly_map: NDArray[np.floating[Any]], rule: "RegionRule", most: int = MOST
) -> tuple[list[Region], int]:
    """Return the regions of a rule with their p-values, at most ``most``, and how many there are in all."""
    threshold, least = rule.pixel_threshold, rule.min_area
    found = regions(anomaly_map, threshold, least, most)
    total = len(found) if len(found) < most else count(anomaly_map, threshold, least)
    return [replace(one, p_value=rule.p_value(one.max, one.area)) for one in found], total


def rasterise(rings: Sequence[Ring], height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels whose centre lies inside the first ring and outside the others, (height, width)."""
    from skimage.draw import polygon

    mask = np.zeros((height, width), dtype=np.bool_)
    for number, ring in enumerate(rings):
        corners = np.asarray(ring, dtype=np.float64)
        mask[polygon(corners[:, 1] - 0.5, corners[:, 0] - 0.5, (height, width))] = number == 0
    return mask


def area_in_pixels(area_mm2: float, mm_per_pixel: float) -> int:
    """Return the least whole number of pixels that cover so many square millimetres."""
    if not (area_mm2 >= 0 and mm_per_pixel > 0):
        raise ValueError(
            f"An area of {area_mm2:g} mm2 at {mm_per_pixel:g} mm per pixel: neither may be negative, the latter not 0."
        )
    return math.ceil(area_mm2 / mm_per_pixel**2 - 1e-9)


@dataclass(frozen=True)
class _Crop:
    """The pixels of one region in its bounding box."""

    left: int
    top: int
    mask: NDArray[np.bool_]
    values: NDArray[np.floating[Any]]


def _labelled(
    values: NDArray[np.floating[Any]], threshold: float, min_area: int
) -> list[tuple[_Crop, int, float, float]]:
    """Crop, area, maximum and mean of every region that is large enough."""
    labels = components(values >= np.asarray(threshold, dtype=values.dtype))
    areas = np.bincount(labels.ravel())
    found = []
    for number, place in enumerate(boxes(labels), start=1):
        if areas[number] < min_area:
            continue
        mask = labels[place] == number
        inside = values[place][mask]
        crop = _Crop(place[1].start, place[0].start, mask, values[place])
        found.append((crop, int(areas[number]), float(inside.max()), float(inside.mean(dtype=np.float64))))
    return found


def _region(crop: _Crop, area: int, peak: float, mean: float) -> Region:
    rows, columns = np.nonzero(crop.mask)
    height, width = crop.mask.shape
    centroid = float(columns.mean() + crop.left + 0.5), float(rows.mean() + crop.top + 0.5)
    return Region(area, (crop.left, crop.top, width, height), centroid, peak, mean, _rings(crop))


def _rings(crop: _Crop) -> tuple[Ring, ...]:
    """The outline and the holes of a mask, padded so that regions at the border are closed; none without skimage."""
    try:
        from skimage.measure import find_contours
    except ImportError:  # beside an exported model boxes and areas are enough
        return ()

    padded = np.pad(crop.mask, 1).astype(np.float64)
    lines = find_contours(padded, 0.5, fully_connected="high")
    lines.sort(key=lambda line: -float(np.ptp(line[:, 0]) * np.ptp(line[:, 1])))  # the outline encloses the holes
    rings = []
    for line in lines:
        points = _simplified(line)[:-1, ::-1] - 1 + 0.5  # without the padding; corners, not centres, of pixels
        points += (crop.left, crop.top)
        rings.append(tuple((float(x), float(y)) for x, y in points))
    return tuple(rings)


def _simplified(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """A closed line with fewer corners, none farther than half a pixel from it; as it was if nothing would be left."""
    from skimage.measure import approximate_polygon

    # start opposite to the first point as well, since the two ends of a closed line are one point
    middle = int(np.argmax(((line - line[0]) ** 2).sum(1)))
    if middle == 0:
        return line
    first = approximate_polygon(line[: middle + 1], _TOLERANCE)
    second = approximate_polygon(line[middle:], _TOLERANCE)
    joined = np.concatenate([first[:-1], second])
    return joined if len(joined) >= 4 else line
