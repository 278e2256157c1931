"""Writing a file so that its name stands for the whole of it, also on a full disk and after a kill."""

import contextlib
import errno
import os
import shutil
from pathlib import Path


def size_text(number: int) -> str:
    """Return a number of bytes for people, such as ``"12.3 MB"``."""
    value = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


class DiskError(OSError):
    """A file could not be written; the message names the path, the space needed and the space there is."""

    def __str__(self) -> str:
        """Return the sentence alone, without the number of the error."""
        return str(self.args[1]) if len(self.args) > 1 else super().__str__()


def disk_error(error: OSError, path: Path, needed: int | None = None) -> DiskError:
    """Return the error of a failed write as a sentence with the path, the space needed and the space there is."""
    if isinstance(error, DiskError):
        return error
    reason = error.strerror or str(error) or type(error).__name__
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = f"{size_text(shutil.disk_usage(folder).free)} are free in '{folder}'"
    except OSError:
        free = f"the free space in '{folder}' is unknown"
    return DiskError(
        error.errno,
        f"Cannot write '{path}': {reason}; "
        + (f"the file takes {size_text(needed)}, " if needed else "")
        + f"{free}. Make room or choose another folder; what was there before is unchanged.",
    )


def is_full(error: OSError) -> bool:
    """Whether an error says that a disk, or a user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: str | Path, data: bytes) -> Path:
    """Write a file under its name only when it is complete, and return its path; folders are made.

    Args:
        path: The file; one that is there is replaced at once, or stays as it is.
        data: The content.

    Raises:
        DiskError: If the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[-100:]}.{os.getpid()}.tmp")  # hidden: no pattern of results finds it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise disk_error(error, path, len(data)) from error
        raise
    return path
