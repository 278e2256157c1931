"""Signals that ask a process to end, taken like Ctrl-C: what was begun is put in order, and workers end too."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any


@contextlib.contextmanager
def signals_stop(stop: threading.Event) -> Iterator[None]:
    """Set an event at the first Ctrl-C, SIGTERM or SIGHUP; the second one interrupts as usual."""

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        for one, handler in kept.items():
            signal.signal(one, handler)

    with _handled(("SIGINT", "SIGTERM", "SIGHUP"), ask) as kept:
        yield


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread on SIGTERM and SIGHUP; one that is ignored (nohup) stays ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(("SIGTERM", "SIGHUP"), interrupt):
        yield


@contextlib.contextmanager
def _handled(names: Sequence[str], handler: Callable[[int, FrameType | None], None]) -> Iterator[dict[int, Any]]:
    """Give signals a handler, but those that are ignored; yields, and puts back, what they had."""
    kept: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
        for name in names:  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                kept[number] = signal.signal(number, handler)
    try:
        yield kept
    finally:
        for number, earlier in kept.items():
            signal.signal(number, earlier)
