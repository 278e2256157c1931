"""Files that arrive while a run goes on: each handed out once, when nobody writes to it any more."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from zsad.images.fragments import split
from zsad.images.listing import Found
from zsad.inference.files import FileFacts, digest
from zsad.inference.watched import TICK, WatchedFolders

LAST_TRY = 60.0
"""Seconds without a change after which a file that could not be read is tried for the last time."""

State = tuple[int, float]
"""Size and time of a file: it is being written as long as they change."""


@dataclass(slots=True)
class _Waiting:
    found: Found
    state: State
    due: float


class Arrivals:
    """Hand out files of watched folders.

    Args:
        folders: Say which files may be new.
        settle: Seconds for which a file's size and time must stay the same.
        known: Whether the image of a resolved path has a row already.
        chosen: Turns a file into the images that it stands for, none if it is left out.
    """

    def __init__(
        self,
        folders: WatchedFolders,
        settle: float = 1.0,
        known: Callable[[str], bool] = lambda real: False,
        chosen: Callable[[Iterable[Found]], Iterable[Found]] = iter,
    ) -> None:
        self._folders, self._settle, self._known, self._chosen = folders, settle, known, chosen
        self._waiting: dict[str, _Waiting] = {}
        self._met: set[int] = set()  # files that were handed out, and images that have a row
        self._failed: dict[int, State] = {}

    def ready(self, stop: threading.Event) -> Iterator[Iterator[Found]]:
        """Yield, several times in a second, the files that are ready by now.

        What is there at the start is ready at once, if by its own clock it has not been written to for the settling
        time. Each iterator has to be used up before the next one is asked for.

        Args:
            stop: Ends it.
        """
        tick = min(TICK, self._settle / 4)
        first = True
        for seen in self._folders.seen(tick, stop):
            yield self._sweep(seen, first, stop)
            if stop.is_set():
                return
            first = False

    def again(self, image: Found, read: FileFacts | None) -> bool:
        """Return whether an image that could not be scored gets another chance, later.

        That is so if its file has changed since it was read, and once more after a minute without a change. One that is
        gone is forgotten, without a row; it may come back.

        Args:
            image: As it was handed out.
            read: The file as it was read; None if it was not.
        """
        file = _file(image)
        key, state = digest(file.real), _state(file)
        changed = read is not None and state != (read.bytes, read.mtime)
        if state is not None and not changed and self._failed.get(key) == state:
            return False
        self._met -= {key, digest(image.real)}
        if state is not None:
            self._wait(file, state, self._settle if changed else max(self._settle, LAST_TRY))
            if not changed:
                self._failed[key] = state
        return True

    def _sweep(self, seen: Iterable[Found], first: bool, stop: threading.Event) -> Iterator[Found]:
        for found in seen:
            if stop.is_set():
                return
            if digest(found.real) in self._met or (state := _state(found)) is None:
                continue
            waiting = self._waiting.get(found.real)
            if first and time.time() - state[1] >= self._settle:
                yield from self._images(found)
            elif waiting is None or waiting.state != state:
                self._wait(found, state, self._settle)
        now = time.monotonic()
        for real, one in list(self._waiting.items()):
            if stop.is_set():
                return
            if now < one.due:
                continue
            del self._waiting[real]
            if (state := _state(one.found)) == one.state:
                yield from self._images(one.found)
            elif state is not None:
                self._wait(one.found, state, self._settle)

    def _wait(self, found: Found, state: State, seconds: float) -> None:
        self._waiting[found.real] = _Waiting(found, state, time.monotonic() + seconds)

    def _images(self, file: Found) -> Iterator[Found]:
        self._met.add(digest(file.real))
        for image in self._chosen([file]):
            if image.real == file.real or digest(image.real) not in self._met:
                self._met.add(digest(image.real))
                if not self._known(image.real):
                    yield image


def _file(image: Found) -> Found:
    """Return the file that an image is the whole or a part of."""
    path, part = split(image.path)
    return Found(path, split(image.real)[0], split(image.below)[0], image.root) if part else image


def _state(file: Found) -> State | None:
    facts = FileFacts.of(file.real)
    return None if facts is None else (facts.bytes, facts.mtime)
