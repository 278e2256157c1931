"""A folder that one process at a time writes to."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from zsad.weights.files import disk_error


class LockedError(ValueError):
    """Another process is writing to a folder."""


@contextlib.contextmanager
def locked(folder: Path, who: str) -> Iterator[None]:
    """Keep a folder for this process alone; it is made if it does not exist.

    Args:
        folder: What to lock; the lock's file ``.zsad.lock`` stays there.
        who: What writes there, for the message: "zsad benchmark".

    Raises:
        LockedError: Another process has it, on this machine or another one that sees the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".zsad.lock", blocking=False)
        lock.acquire()
    except Timeout:
        raise LockedError(
            f"Another {who} is writing to '{folder}': wait until it ends, or give another --out."
        ) from None
    except OSError as error:
        raise disk_error(error, folder / ".zsad.lock") from error
    try:
        yield
    finally:
        lock.release()
