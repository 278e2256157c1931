"""Fetch and unpack an archive without trusting the network or the archive."""

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from zsad.datamodules.facts import Facts
from zsad.weights.expected import DownloadError, Expected, digest
from zsad.weights.fetch import fetch

_CHUNK = 1 << 20
_MOST_MEMBERS = 10**6
_END = 1024  # a tar archive ends with two empty blocks


class UnsafeArchiveError(ValueError):
    """An archive holds something that must not be unpacked; nothing of it was kept."""


def extract(archive: Path, folder: Path, max_bytes: float = float("inf")) -> Path:
    """Unpack a tar or zip archive into a new folder and return it.

    All goes to ``<folder>.partial`` first, which is renamed at the end and removed on any failure, so ``folder`` never
    holds half an archive. Only folders and ordinary files are accepted.

    Args:
        archive: The file; its kind is read from its content.
        folder: Must not exist.
        max_bytes: Limit of the unpacked size, counted while unpacking.

    Raises:
        UnsafeArchiveError: A path is absolute or leaves the folder, an entry is a link or a device, two entries have
            one name, or the content exceeds the limit.
        DownloadError: The archive is neither tar nor zip, or is damaged.
        FileExistsError: ``folder`` exists.
    """
    if folder.exists():
        raise FileExistsError(f"'{folder}' exists already; remove it to unpack '{archive}' again.")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        _unpack(archive, partial, max_bytes)
        os.rename(partial, folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise DownloadError(f"'{archive}' is damaged, or neither a tar nor a zip archive: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack(archive: Path, folder: Path, max_bytes: float) -> None:
    written = 0
    for number, (name, source) in enumerate(_members(archive)):
        if number >= _MOST_MEMBERS:
            raise UnsafeArchiveError(f"'{archive}' has more than {_MOST_MEMBERS} entries.")
        path = folder.joinpath(*_safe_parts(name, archive))
        if source is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise UnsafeArchiveError(f"'{archive}' holds '{name}' twice.")
        with source, path.open("xb") as file:
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > max_bytes:
                    raise UnsafeArchiveError(f"'{archive}' unpacks to more than {max_bytes:.0f} bytes, at '{name}'.")
                file.write(chunk)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield the name and content (None for a folder) of each entry."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                mode = info.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise UnsafeArchiveError(f"'{archive}' holds '{info.filename}', which is a link or a device.")
                yield info.filename, None if info.is_dir() else zipped.open(info)
        return
    with _Decompressed(archive) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # a stream: one pass, however large
            for member in tar:
                if not (member.isreg() or member.isdir()):
                    raise UnsafeArchiveError(f"'{archive}' holds '{member.name}', which is a link or a device.")
                yield member.name, tar.extractfile(member) if member.isreg() else None
        stream.finish()


class _Decompressed(io.RawIOBase):
    """The content of a tar archive, read to its very end, where compressed files have their checksum.

    Python's tar reader stops at the last entry: it sees neither a wrong checksum nor that entries are missing.
    """

    def __init__(self, archive: Path) -> None:
        with archive.open("rb") as file:
            start = file.read(6)
        self._file: Any
        if start.startswith(b"\x1f\x8b"):
            self._file = gzip.GzipFile(archive)
        elif start.startswith(b"BZh"):
            self._file = bz2.BZ2File(archive)
        elif start.startswith(b"\xfd7zXZ\x00"):
            self._file = lzma.LZMAFile(archive)  # noqa: SIM115 (closed with this object)
        else:
            self._file = archive.open("rb")
        self._archive, self._tail = archive, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            found = self._file.read(size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DownloadError(f"'{self._archive}' is damaged, or neither a tar nor a zip archive: {error}") from error
        self._tail = (self._tail + found)[-_END:]
        return found

    def finish(self) -> None:
        """Read what follows the last entry.

        Raises:
            DownloadError: A checksum is wrong, or the archive ends without its mark: entries may be missing.
        """
        while self.read(_CHUNK):
            pass
        if self._tail.strip(b"\0") or len(self._tail) < _END:
            raise DownloadError(f"'{self._archive}' is damaged or cut off: it has no end mark. Nothing of it was kept.")

    def close(self) -> None:
        self._file.close()
        super().close()


def _safe_parts(name: str, archive: Path) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    drive = re.match(r"[A-Za-z]:", name)
    if name.startswith("/") or drive or "\\" in name or "\0" in name or ".." in parts:
        raise UnsafeArchiveError(f"'{archive}' holds '{name}', which would be written outside of its folder.")
    return parts


def download(
    facts: Facts,
    folder: Path,
    archive: Path | None = None,
    keep_archive: bool = False,
    told: Callable[[int, int | None], None] = lambda done, total: None,
) -> Path:
    """Bring a data set into a new folder, by its direct official link or from an archive, and return the folder.

    Args:
        facts: Of the data set; without an archive it needs a link.
        folder: New.
        archive: One that was fetched by hand: its checksum is compared where known, and it is unpacked.
        keep_archive: Do not delete the downloaded archive after unpacking.
        told: Called while downloading, with the bytes that are there and their number, None if that is unknown.

    Raises:
        DownloadError: It could not be fetched, or is not what it should be.
        FileNotFoundError: There is no such archive.
        UnsafeArchiveError: It holds something that must not be unpacked.
        ValueError: There is neither a link nor an archive.
    """
    link = facts.download
    if archive is not None:
        _compare(archive, facts)
        return extract(archive, folder, (link.max_unpacked_gb if link else 100.0) * 1e9)
    if link is None:
        raise ValueError(f"{facts.title} has no direct link that may be used. {facts.obtain}")
    most = link.max_unpacked_gb * 1e9
    file = folder.with_name(Path(urllib.parse.urlsplit(link.url).path).name)
    fetch(
        link.url,
        file,
        Expected(sha256=link.sha256),
        told,
        max_bytes=int(most),
        name=facts.title,
        elsewhere="give another folder as root",
    )
    extract(file, folder, most)
    if not keep_archive:
        file.unlink()
    return folder


def _compare(archive: Path, facts: Facts) -> None:
    if not archive.is_file():
        raise FileNotFoundError(f"No archive '{archive}'.")
    expected = facts.download.sha256 if facts.download else facts.sha256
    if expected is not None and (found := digest(archive)) != expected:
        raise DownloadError(f"'{archive}' has SHA-256 {found}, expected {expected} for {facts.title}.")
