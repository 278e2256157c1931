"""A run over files: each batch becomes rows and heat maps, the first ones when the scale of the colours is known."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from zsad.images.listing import Found
from zsad.images.overlay import AUTO, Limits, Scale
from zsad.inference.ahead import Behind
from zsad.inference.overlays import FIRST, labels_of, output_name, overlay_name, save_overlay, scale_of
from zsad.inference.raw_maps import FOLDER, RawMaps
from zsad.inference.result import Result
from zsad.inference.rows import Row
from zsad.inference.writer import RowWriter

if TYPE_CHECKING:
    from typing_extensions import Self


class Recorder:
    """Take the results of a run, write rows and heat maps, and count.

    Args:
        writer: Of the rows.
        scale: Of the heat maps: limits, ``"image"``, None for the method's range, ``"auto"`` for what the first images
            decide.
        overlays: Whether there are heat maps.
        map_range: The method's.
        after: Called with the rows of a batch when they are on the disk.
        num_workers: Threads that draw heat maps; one more then writes, behind the caller, and what this counts is whole
            when it has ended. 0 does all of it at once.
        maps: How raw maps are written; None writes none.
    """

    def __init__(
        self,
        writer: RowWriter,
        scale: Scale | str,
        overlays: bool = True,
        map_range: Limits | None = None,
        num_workers: int = 0,
        maps: RawMaps | None = None,
        after: Callable[[Sequence[Row]], object] | None = None,
    ) -> None:
        self.writer, self.overlays, self.map_range, self.maps = writer, overlays, map_range, maps
        self.after = after
        frozen = writer.settings.get("scale")
        self.scale: Scale | str = tuple(frozen) if scale == AUTO and frozen else scale
        self.scored = self.failed = 0
        self.low, self.high = np.inf, -np.inf
        self.narrow: list[tuple[float, float]] = []
        """The windows that would fit pictures that use a small part of their range."""
        self._waiting: list[tuple[list[Found], Sequence[Result]]] = []
        self._labels: dict[str, str] = writer.settings.get("roots", {})
        self._behind = Behind() if num_workers else None
        self._drawing = ThreadPoolExecutor(num_workers) if num_workers else None

    def start(self, roots: Sequence[str]) -> None:
        """Give the input folders names below ``overlays`` and ``maps``, those of earlier calls staying as they are."""
        if (self.overlays or self.maps) and (labels := labels_of(roots, self._labels)) != self._labels:
            self._labels = labels
            self.writer.note(roots=labels)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._write_waiting)  # also after an interruption: what was scored is not lost
        if self._behind is not None:
            self._behind.close()
        if self._drawing is not None:
            self._drawing.shutdown()

    def _do(self, job: Callable[..., object], *arguments: Any) -> None:
        (job if self._behind is None else partial(self._behind, job))(*arguments)

    def add(self, found: Iterable[Found], results: Sequence[Result]) -> None:
        """Take the results of a batch, with the files that they belong to."""
        self._do(self._add, list(found), results)

    def flush(self) -> None:
        """Write what waits for the scale of the colours, which is decided by what there is."""
        self._do(self._write_waiting)

    def then(self, job: Callable[[], object]) -> None:
        """Have a job done when all that was added is on the disk."""
        self._do(job)

    def _add(self, found: list[Found], results: Sequence[Result]) -> None:
        for result in results:
            self.scored += result.error is None
            self.failed += result.error is not None
            if result.error is None:
                self.low = min(self.low, float(result.anomaly_map.min()))
                self.high = max(self.high, float(result.anomaly_map.max()))
            if result.fitting_window is not None:
                self.narrow.append(result.fitting_window)
        if not self.overlays or self.scale != AUTO:
            self._write(found, results)
            return
        self._waiting.append((found, results))
        if self.scored >= FIRST:
            self._write_waiting()

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        every = [one for _, results in self._waiting for one in results if one.error is None]
        if every:
            self.scale = scale_of([one.anomaly_map for one in every[:FIRST]], self.map_range)
            self.writer.note(scale=self.scale)
        waiting, self._waiting = self._waiting, []
        for found, results in waiting:
            self._write(found, results)

    def _write(self, found: list[Found], results: Sequence[Result]) -> None:
        rows = list((map if self._drawing is None else self._drawing.map)(self._row, found, results))
        lost = sum(row.error != result.error for row, result in zip(rows, results, strict=True))
        self.scored, self.failed = self.scored - lost, self.failed + lost
        self.writer.write(rows)
        if self.after is not None:
            self.after(rows)

    def _row(self, found: Found, result: Result) -> Row:
        made: dict[str, Any] = {"path": self.writer.shown(found.path)}
        if self.maps is not None and result.error is None:
            made |= self.maps.save(result, self.writer.folder, output_name(found, self._labels, FOLDER))
        if self.overlays and result.error is None and self.scale != AUTO:
            name, scale = overlay_name(found, self._labels), cast(Scale, self.scale)
            wrong = save_overlay(result, self.writer.folder, name, scale)
            made |= {"overlay": name} if wrong is None else {"error": wrong}
        return Row.of(result, **made)
