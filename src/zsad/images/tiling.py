"""Large pictures in square tiles: where the tiles lie, and how their maps become one. Without torch.

Everything here is NumPy, so that programs without torch (an exported model) cut and merge alike.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of the upright picture."""

Size = tuple[int, int]

_Floats = NDArray[np.floating[Any]]

_BAND = 2**20  # pixels of a map at a time


@dataclass(frozen=True)
class Tiles:
    """How a picture is cut into square tiles, each of them scored as if it were an image.

    A defect of 15 pixels in a picture of 4,000 becomes one or two pixels of a model's 240 to 518; in a tile of 1,024
    it stays visible.

    Args:
        size: Side of a tile in pixels of the upright picture. A picture that is smaller in a side is one tile there.
        overlap: Share of a tile that the next one covers as well, in [0, 1). The distance between tiles is
            ``size * (1 - overlap)``, rounded down; the last ones are moved inwards.
        whole: Whether the whole picture is scored as well. The map is then the mean of its map and that of the tiles.
        merge: ``"mean"``: where tiles overlap their maps are faded into each other, linearly, weights adding up to 1.
        score: Of the picture: ``"max"`` of the tiles' scores and the whole's, their ``"mean"``, or the maximum of the
            merged ``"map"`` at the picture's own size.

    Raises:
        ValueError: A value makes no sense.
    """

    size: int
    overlap: float = 0.25
    whole: bool = True
    merge: Literal["mean"] = "mean"
    score: Literal["max", "mean", "map"] = "max"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 16:
            raise ValueError(f"The size of a tile must be a whole number of at least 16 pixels, got {self.size!r}.")
        if not 0 <= self.overlap < 1 or self.stride < 1:
            raise ValueError(f"Tiles may overlap by a share of 0 to below 1 of their size, got {self.overlap!r}.")
        if self.merge != "mean":
            raise ValueError(f"Maps of tiles are merged by 'mean', got {self.merge!r}.")
        if self.score not in ("max", "mean", "map"):
            raise ValueError(f"The score of tiles must be 'max', 'mean' or 'map', got {self.score!r}.")

    @property
    def stride(self) -> int:
        """Distance in pixels from one tile to the next."""
        return int(self.size * (1 - self.overlap) + 1e-9)  # 10 * (1 - 0.9) is 0.99...

    def identity(self) -> dict[str, Any]:
        """Return what decides a score, as settings and cards keep it."""
        return asdict(self)

    def starts(self, length: int) -> list[int]:
        """Return where tiles start along a side of ``length`` pixels."""
        last = max(0, length - self.size)
        return [*range(0, last, self.stride), last]

    def boxes(self, size: Size) -> list[Box]:
        """Return what is scored of a picture: the whole, if it is asked for, then the tiles row by row.

        A picture that is a single tile is scored once.

        Args:
            size: (height, width) of the picture.
        """
        height, width = size
        whole = (0, 0, width, height)
        tiles = [
            (left, top, min(left + self.size, width), min(top + self.size, height))
            for top in self.starts(height)
            for left in self.starts(width)
        ]
        return [whole, *tiles] if self.whole and tiles != [whole] else tiles

    def map_size(self, size: Size, model_size: int) -> Size:
        """Return (height, width) of a merged map in which a tile has the model's own resolution, at most the picture's.

        Args:
            size: (height, width) of the picture.
            model_size: Side in pixels of the model's input.
        """
        share = min(1.0, model_size / self.size)
        return max(1, round(size[0] * share)), max(1, round(size[1] * share))

    def score_of(self, scores: Sequence[float]) -> float:
        """Return the score of a picture from those of its parts; that of ``"map"`` is :attr:`Merge.maximum`."""
        return max(scores) if self.score == "max" else float(np.mean(np.asarray(scores, np.float64)))


class Merge:
    """The map of a picture, made of the maps of its parts one after another; it holds one map and no more.

    Args:
        tiles: How the picture was cut.
        source: (height, width) of the picture.
        size: (height, width) of the merged map.
    """

    def __init__(self, tiles: Tiles, source: Size, size: Size) -> None:
        self.tiles, self.source, self.size = tiles, source, size
        self.map: NDArray[np.float32] = np.zeros(size, np.float32)
        """(height, width), complete when every box of :meth:`Tiles.boxes` was added."""
        self._several = len(tiles.boxes(source)) > 1

    def add(self, box: Box, anomaly_map: NDArray[np.float32]) -> None:
        """Add the map of a part, of any size, larger is more anomalous.

        Args:
            box: One of :meth:`Tiles.boxes`.
            anomaly_map: (rows, columns).
        """
        left, top, right, bottom = box
        whole = (right - left, bottom - top) == self.source[::-1]
        share = 0.5 if self.tiles.whole and self._several else 1.0
        rows: _Floats
        columns: _Floats
        if whole:
            rows, columns = np.full(self.size[0], share), np.ones(self.size[1])
        else:
            rows, columns = share * self._rows[top], self._columns[left]
        low, down = _taps(rows, self.source[0], (top, bottom), anomaly_map.shape[0])
        first, across = _taps(columns, self.source[1], (left, right), anomaly_map.shape[1])
        # columns first, while the map is small; rows lie together in memory
        wide: NDArray[np.float32] = np.sum([np.take(anomaly_map, at, axis=1) * share for at, share in across], axis=0)
        height, width = len(down[0][0]), wide.shape[1]
        step = max(1, _BAND // max(1, width))
        for start in range(0, height, step):
            target = self.map[low + start : low + min(start + step, height), first : first + width]
            for places, weights in down:
                target += wide[places[start : start + step]] * weights[start : start + step, None]

    @property
    def maximum(self) -> float:
        """The largest value."""
        return float(self.map.max())

    @cached_property
    def _rows(self) -> dict[int, _Floats]:
        return _shares(self.tiles.starts(self.source[0]), self.tiles.size, self.source[0], self.size[0])

    @cached_property
    def _columns(self) -> dict[int, _Floats]:
        return _shares(self.tiles.starts(self.source[1]), self.tiles.size, self.source[1], self.size[1])


def named(path: str, box: Box) -> str:
    """Return what a part of a picture is called: the path with a media fragment, ``"a.jpg#xywh=0,635,500,635"``."""
    left, top, right, bottom = box
    return f"{path}#xywh={left},{top},{right - left},{bottom - top}"


def _centres(length: int, pixels: int) -> _Floats:
    """Return where the pixels of a map lie along a side of a picture, in pixels of the picture."""
    return (np.arange(pixels) + 0.5) * (length / pixels)


def _shares(starts: Sequence[int], size: int, length: int, pixels: int) -> dict[int, _Floats]:
    """Return start -> weight of that tile in each pixel of the map; they add up to 1 in each.

    A tile fades linearly to 0 where the one beside it takes over, hence the map is continuous; towards the picture's
    border it does not fade.
    """
    at = _centres(length, pixels)
    ends = [min(start + size, length) for start in starts]
    shares = []
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        share = ((at >= start) & (at < end)).astype(np.float64)
        if place > 0 and (overlap := ends[place - 1] - start) > 0:
            share *= np.clip((at - start) / overlap, 0, 1)
        if place + 1 < len(starts) and (overlap := end - starts[place + 1]) > 0:
            share *= np.clip((end - at) / overlap, 0, 1)
        shares.append(share)
    total: _Floats = np.sum(shares, axis=0)
    return {start: np.divide(share, total) for start, share in zip(starts, shares, strict=True)}


_Taps = list[tuple[NDArray[np.intp], NDArray[np.float32]]]


def _taps(weights: _Floats, length: int, part: Size, values: int) -> tuple[int, _Taps]:
    """Return how a side of a part's map is resized, times the weights: bilinearly, averaging where it gets smaller.

    Args:
        weights: Of each pixel of the merged map.
        length: Of the picture's side.
        part: (start, end) of the part in pixels of the picture.
        values: Of the part's map along the side.

    Returns:
        The first pixel of the merged map with a weight, and for it and those that follow the places in the part's map
        that it is made of, with their weights.
    """
    used = np.flatnonzero(weights)
    if not len(used):  # a small map has no pixel in this part
        return 0, [(np.zeros(0, np.intp), np.zeros(0, np.float32))]
    used = np.arange(used[0], used[-1] + 1)
    scale = values / (part[1] - part[0])
    at = (_centres(length, len(weights))[used] - part[0]) * scale - 0.5
    reach = max(1.0, scale * length / len(weights))
    first = np.floor(at - reach).astype(np.intp) + 1
    places = [first + number for number in range(int(np.ceil(2 * reach)))]
    shares = [np.clip(1 - np.abs(place - at) / reach, 0, None) * ((place >= 0) & (place < values)) for place in places]
    factor = weights[used] / np.sum(shares, axis=0)
    return int(used[0]), [
        (np.clip(place, 0, values - 1), (share * factor).astype(np.float32))
        for place, share in zip(places, shares, strict=True)
    ]
