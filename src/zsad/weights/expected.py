"""What a file must be: its size and its hashes, git's included, so that a file is pinned before anyone has seen it."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_CHUNK = 1 << 20


class DownloadError(OSError):
    """A file could not be fetched, or is not the one that was expected."""


class MismatchError(DownloadError):
    """A file is there, but it is another one than expected; it was not kept."""


class Found(NamedTuple):
    """What a file is."""

    sha256: str
    git_blob: str
    size: int


@dataclass(frozen=True)
class Expected:
    r"""What a file must be; whatever is None is not compared.

    Args:
        sha256: Checksum of the content, 64 hexadecimal digits.
        git_blob: git's id of the content, ``sha1(b"blob <size>\0" + content)``, 40 hexadecimal digits: it stands in
            the tree of every commit, so it proves "this is the file that was committed" for files nobody hashed yet.
        size: Bytes.

    Raises:
        ValueError: A hash is not one.
    """

    sha256: str | None = None
    git_blob: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        for name, digits in (("sha256", 64), ("git_blob", 40)):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                raise ValueError(f"{name} must be {digits} hexadecimal digits, got '{value}'.")

    def __bool__(self) -> bool:
        """Whether there is anything that decides what the file is; a size alone does not."""
        return self.sha256 is not None or self.git_blob is not None

    def difference(self, found: Found) -> str | None:
        """Return what differs, as a phrase, or None if every value that is expected agrees."""
        for name, words in (("size", "size"), ("git_blob", "git blob id"), ("sha256", "sha256")):
            wanted, is_there = getattr(self, name), getattr(found, name)
            if wanted is not None and wanted != is_there:
                return f"{words} {is_there}, expected {wanted}"
        return None

    def check(self, path: Path, source: str) -> Found:
        """Return what a file is if it is the expected one.

        Args:
            path: The file.
            source: Where it comes from, for the message.

        Raises:
            MismatchError: It is another one.
        """
        found = measure(path)
        if (differs := self.difference(found)) is not None:
            raise mismatch(source, differs)
        return found


def mismatch(source: str, difference: str) -> MismatchError:
    """Return the error of a file that is not the expected one."""
    return MismatchError(
        f"'{source}' is not the file that is expected: {difference}. Nothing was kept. If the authors replaced the "
        f"file, zsad needs an update."
    )


def measure(path: Path) -> Found:
    """Return size and both hashes of a file, read once."""
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return Found(sha256.hexdigest(), blob.hexdigest(), size)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value.update(chunk)
    return value.hexdigest()
