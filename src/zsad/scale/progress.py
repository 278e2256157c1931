"""How far a job is: read from the rows that are durable, so it is true on every machine and after a kill."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from typing_extensions import Self

from zsad.inference.parquet import require_parquet
from zsad.scale.collect import SCORES
from zsad.scale.places import Place

_EVERY = 60.0  # seconds


class Done(NamedTuple):
    """What is durable."""

    rows: int
    errors: int


class Watch:
    """Tell once a minute, in one line, the rows, errors, images per second and the time that is left.

    Args:
        place: Of the job.
        total: Images.
        say: Takes the line.
        every: Seconds between lines.
    """

    def __init__(self, place: Place, total: int, say: Callable[[str], object], every: float = _EVERY) -> None:
        self._place, self._total, self._say, self._every = place, total, say, every
        self._known: dict[str, tuple[int, int]] = {}
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._started, self._before = time.monotonic(), self.done().rows
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def done(self) -> Done:
        """Return the durable rows, and how many of them have an error."""
        counts = self._counts()
        return Done(sum(rows for rows, _ in counts), sum(errors for _, errors in counts))

    def line(self) -> str:
        """Return how far the job is."""
        done = self.done()
        speed = (done.rows - self._before) / max(time.monotonic() - self._started, 1e-9)
        left = "unknown time" if speed <= 0 else f"{(self._total - done.rows) / speed / 60:.0f} min"
        return f"{done.rows} of {self._total} rows, {done.errors} with an error, {speed:.1f} images/s, {left} left"

    def _counts(self) -> list[tuple[int, int]]:
        """Rows and errors of each file, from its last bytes."""
        arrow = require_parquet()
        names = self._place.names(SCORES)
        for name in names:
            if name in self._known:
                continue
            try:
                about = arrow.parquet.read_metadata(self._place.inner(SCORES, name), filesystem=self._place.arrow())
            except (OSError, ValueError):  # is being written
                continue
            errors = about.schema.names.index("error")
            groups = [about.row_group(number) for number in range(about.num_row_groups)]
            empty = sum(one.column(errors).statistics.null_count for one in groups)
            self._known[name] = about.num_rows, about.num_rows - empty
        return [self._known[name] for name in names if name in self._known]  # Ray removes what a kill left unfinished

    def _tell(self) -> None:
        while not self._ended.wait(self._every):
            self._say(self.line())
