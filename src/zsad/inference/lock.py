"""One run at a time in a folder, and messages that say which disk is full."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

LOCK = ".zsad.lock"
"""File in a run's folder that is locked while a run writes there; the system frees it when the run ends, however."""


class FolderInUseError(ValueError):
    """Another run is writing into a folder."""


class Lock(Protocol):
    """What is held."""

    def release(self) -> object:
        """Free it."""


class NoLock:
    """Where the package filelock is missing, as beside an exported model, nothing is held."""

    def release(self) -> None:
        """Do nothing."""


def lock_folder(folder: Path) -> Lock:
    """Return the acquired lock of a folder; ``release()`` or the end of the process frees it.

    Raises:
        FolderInUseError: Another process, or another run in this one, holds it.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        return NoLock()
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"Another run is writing into '{folder}'. Wait until it ends, or give this one a folder of its own."
        ) from error
    return lock


@contextmanager
def naming_disk(path: Path) -> Iterator[None]:
    """Say which path was written and how much space its disk has, if the disk is full.

    Args:
        path: What is being written.

    Raises:
        OSError: As it was raised inside, a full disk with a message that names path and space.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(full_disk(path)) from error


def full_disk(path: Path) -> str:
    """Return the sentence about a disk that is full."""
    where = path if path.is_dir() else path.parent
    try:
        usage = shutil.disk_usage(where)
        space = f"{usage.free / 1e6:.1f} MB of {usage.total / 1e6:.1f} MB are free there"
    except OSError:
        space = "its free space is unknown"
    return (
        f"No space is left on the disk of '{path}' ({space}). Free some and run the same command again: "
        f"what is in '{os.fspath(where)}' stays and the run goes on from there."
    )
