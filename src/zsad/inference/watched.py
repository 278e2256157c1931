"""Folders that are watched: names of files that may be new, from the system's events and from walks."""

import importlib.util
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from zsad.images.listing import Found, is_image, walk

TICK = 0.25
"""Seconds at most between two looks."""

_PAUSE, _SHARE = 10.0, 20.0
"""Between two walks with events: seconds, and times what a walk takes. They find what no event told."""

_POLLING_SHARE = 3.0
"""Between two walks without events, times what a walk takes."""


def require_watchfiles() -> None:
    """Raise if the system's events cannot be had.

    Raises:
        ValueError: ``watchfiles`` is not installed.
    """
    if importlib.util.find_spec("watchfiles") is None:
        raise ValueError(
            'Watching a folder needs watchfiles: pip install "zsad[watch]", or --polling, which does without.'
        )


class WatchedFolders:
    """Tell which files may have come into some folders; a folder that goes away is waited for.

    Args:
        roots: Folders.
        avoid: Folders whose files do not count.
        polling: Walk instead of asking for events, which network shares do not send.
        pause: Seconds between two walks then, longer where a walk takes long.
        tell: Called with a sentence when a folder goes away, when it is back, and when there are no events.
    """

    def __init__(
        self,
        roots: Sequence[str],
        avoid: Sequence[str] = (),
        polling: bool = False,
        pause: float = 1.0,
        tell: Callable[[str], object] = lambda said: None,
    ) -> None:
        self.roots = {os.path.realpath(root): root for root in roots}
        self._avoid = [os.path.realpath(folder) for folder in avoid]
        self._polling, self._pause, self._tell = polling, pause, tell
        self._away: set[str] = set()
        self._next_walk = self._soonest = 0.0

    def seen(self, tick: float, stop: threading.Event) -> Iterator[Iterator[Found]]:
        """Yield, at least every ``tick`` seconds, files that may be new; the first time all that are there."""
        while not stop.is_set():
            there = self._present()
            self._next_walk = 0.0
            for names in self._events(there, tick, stop):
                named = (found for name in names if (found := self._found(name)) is not None)
                yield itertools.chain(self._walk(there), named)
                if stop.is_set() or self._present() != there:
                    break

    def _events(self, there: Mapping[str, object], tick: float, stop: threading.Event) -> Iterator[Iterable[str]]:
        if not self._polling and there:
            from watchfiles import watch

            try:
                for changes in watch(
                    *there, watch_filter=None, stop_event=stop, debounce=200, step=20, rust_timeout=int(1000 * tick),
                    yield_on_timeout=True, raise_interrupt=False,
                ):  # fmt: skip
                    yield [name for _, name in changes]
                return
            except (OSError, RuntimeError) as error:
                if self._present() == there:  # else a folder went away under the watcher's feet
                    self._polling = True
                    self._tell(f"The system sends no events ({error}): walking instead, as --polling does.")
                return
        while not stop.wait(tick):
            yield ()

    def _present(self) -> dict[str, object]:
        """Return the folders that are there, with what would change if another was put in their place."""
        there: dict[str, object] = {}
        for real, shown in self.roots.items():
            try:
                os.scandir(real).close()
                stat = os.stat(real)
            except OSError:
                if real not in self._away:
                    self._tell(f"'{shown}' is away: waiting until it is back.")
                self._away.add(real)
                continue
            there[real] = (stat.st_dev, stat.st_ino)
            if real in self._away:
                self._away.discard(real)
                self._tell(f"'{shown}' is back.")
        return there

    def _walk(self, there: Iterable[str]) -> Iterator[Found]:
        """Yield all files, if it is time; what is done with them meanwhile does not count as the walk's time."""
        start = time.monotonic()
        if start < self._next_walk:
            return
        took = 0.0
        try:
            for found in walk([self.roots[real] for real in there], avoid=self._avoid):
                took += time.monotonic() - start
                if found.error is None:
                    yield found
                start = time.monotonic()
        except FileNotFoundError:  # gone meanwhile
            pass
        now = time.monotonic()
        took += now - start
        pause = max(self._pause, _POLLING_SHARE * took) if self._polling else max(_PAUSE, _SHARE * took)
        self._next_walk, self._soonest = now + pause, now + took

    def _found(self, name: str) -> Found | None:
        """Return the file that an event names; a folder that came whole is walked soon."""
        for root, shown in self.roots.items():
            below = os.path.relpath(name, root)
            parts = below.split(os.sep)
            if parts[0] == os.pardir or any(part.startswith(".") for part in parts):
                continue
            if os.path.isdir(name):
                self._next_walk = min(self._next_walk, self._soonest)
            elif is_image(parts[-1]):
                real = os.path.realpath(name)
                if not any(real.startswith(folder + os.sep) for folder in self._avoid):
                    return Found(os.path.join(shown, below), real, "/".join(parts), root)
        return None
