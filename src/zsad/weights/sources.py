"""Published files, one by one: from a mirror, the Hub or their address."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from zsad.weights import places
from zsad.weights.expected import DownloadError, MismatchError
from zsad.weights.fetch import NoSpaceError, Report, UnreachableError, fetch
from zsad.weights.hub import fetch_from_hub
from zsad.weights.registry import SourceFile, WeightsEntry


class NotHereError(FileNotFoundError):
    """Adapters are not on this machine and cannot be fetched."""


@dataclass(frozen=True)
class Asked:
    """How to get adapters.

    Args:
        offline: True opens no connection; None leaves it to the environment.
        mirror: Address or folder that is asked first; None leaves it to the environment.
        keep: Whether the authors' own file stays beside the converted one.
        report: Called after every piece of a download.
    """

    offline: bool | None = None
    mirror: str | None = None
    keep: bool = False
    report: Report | None = None


@dataclass(frozen=True)
class Fetched:
    """A published file on this machine, where it came from, and whether it is ours to delete."""

    path: Path
    url: str
    ours: bool = True


def folder_of(entry: WeightsEntry) -> Path:
    """Return the folder of an entry in the cache."""
    return places.weights_folder() / entry.key


def stem_of(entry: WeightsEntry) -> str:
    """Return how the names of an entry's files begin."""
    return (entry.variant or entry.key).replace("/", "--")


def mirrored(entry: WeightsEntry, number: int) -> str:
    """Return the path of an entry's file below a mirror, ``anomalyclip/visa.pth``: the authors' file, as pinned."""
    suffix = Path(entry.files[number].path).suffix
    return f"{entry.key}/{stem_of(entry)}{f'-{number}' if number else ''}{suffix}"


def fetch_source(entry: WeightsEntry, number: int, asked: Asked, locked: bool) -> Fetched:
    """Return a published file of an entry: from a mirror, the Hub or its address, compared with its checksum.

    Args:
        entry: Which adapters.
        number: Of the file.
        asked: How to get it.
        locked: Whether no other process fetches it now.

    Raises:
        NotHereError: There is no network, offline mode is on, or only a person can fetch it.
        DownloadError: The download failed, or gave another file than expected.
    """
    source = entry.files[number]
    target = folder_of(entry) / f"{stem_of(entry)}.source{number}"
    if not locked:
        target = target.with_name(f"{target.name}-{os.getpid()}-{secrets.token_hex(4)}")
    offline = places.offline_reason(asked.offline)
    if (base := places.mirror(asked.mirror)) and (got := _from_mirror(base, entry, source, target, asked, offline)):
        return got
    if source.kind.startswith("drive"):
        raise NotHereError(
            f"'{entry.name}' is published on a drive that programs cannot read. Open {source.url}, save {source.path}, "
            f"then run 'zsad weights add {entry.name} FILE'."
        )
    if offline is not None:
        raise NotHereError(_not_here(entry, source, f"offline mode is on ({offline})"))
    try:
        if source.kind in ("hub", "hub_space"):
            return Fetched(fetch_from_hub(source), source.url, ours=False)
        return Fetched(fetch(source.url, target, source.expected, asked.report, name=entry.name), source.url)
    except UnreachableError as error:
        raise NotHereError(_not_here(entry, source, f"{error.host} cannot be reached ({error.reason})")) from error


def _from_mirror(
    base: str, entry: WeightsEntry, source: SourceFile, target: Path, asked: Asked, offline: str | None
) -> Fetched | None:
    """Return a file from the mirror, None if it has none; one with another content is an error."""
    if not source.expected:
        return None  # nothing would tell a right file from a wrong one
    names = [mirrored(entry, entry.files.index(source)), source.path]
    folder = places.as_folder(base)
    if folder is not None:
        for path in (folder / name for name in names):
            if path.is_file():
                source.expected.check(path, str(path))
                return Fetched(path, str(path), ours=False)
        return None
    if offline is not None:
        return None
    for url in (f"{base.rstrip('/')}/{name}" for name in names):
        try:
            return Fetched(fetch(url, target, source.expected, asked.report, tries=2, pause=0.2, name=entry.name), url)
        except (MismatchError, NoSpaceError):
            raise
        except UnreachableError:
            break
        except DownloadError:
            continue
    return None


def _not_here(entry: WeightsEntry, source: SourceFile, why: str) -> str:
    return (
        f"Adapters '{entry.name}' are not on this machine ({places.shown(folder_of(entry))}) and {why}. Connect once, "
        f"or fetch {source.url} elsewhere and run 'zsad weights add {entry.name} FILE'."
    )
