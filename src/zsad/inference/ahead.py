"""Work that runs ahead of the model or behind it, in order, so that the model never waits for a file."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_BEHIND = 2  # batches that may wait to be written: a kill loses no more


def ahead_of(function: Callable[[_In], _Out], items: Iterable[_In], workers: int, ahead: int) -> Iterator[_Out]:
    """Map in order, with threads that work on at most ``ahead`` items before they are asked for."""
    if workers == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def in_batches(items: Iterable[_In], size: int) -> Iterator[list[_In]]:
    """Yield ``size`` items after another; the last batch may be short."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def one_behind(items: Iterator[_In], late: bool = True) -> Iterator[_In]:
    """Yield items when the next one has been made: a device works on that one while this one is read.

    An item that was made is yielded even if the next one fails.

    Args:
        items: Each begins some work when it is made.
        late: False yields them at once.
    """
    if not late:
        yield from items
        return
    waiting: list[_In] = []
    while True:
        try:
            waiting.append(next(items))
        except StopIteration:
            yield from waiting
            return
        except Exception:
            yield from waiting
            raise
        if len(waiting) > 1:
            yield waiting.pop(0)


class Behind:
    """One thread that does jobs in the order in which they are given, few of them behind the caller.

    Once a job has failed, later ones are not done: what they write would stand where the failed one's belongs.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._jobs: deque[Future[None]] = deque()
        self._failed = False

    def __call__(self, job: Callable[..., object], *arguments: Any) -> None:
        """Have a job done; wait if too many are not done yet.

        Raises:
            Exception: What an earlier job raised.
        """
        self._jobs.append(self._thread.submit(self._do, job, *arguments))
        while len(self._jobs) > _BEHIND:
            self._jobs.popleft().result()

    def close(self) -> None:
        """Wait until all is done.

        Raises:
            Exception: What a job raised.
        """
        self._thread.shutdown()
        while self._jobs:
            self._jobs.popleft().result()

    def _do(self, job: Callable[..., object], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            job(*arguments)
        except BaseException:
            self._failed = True
            raise
