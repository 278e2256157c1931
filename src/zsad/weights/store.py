"""The folder of adapters: fetched once, compared, converted, and read only while their note agrees."""

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from zsad import __version__
from zsad.weights.expected import DownloadError, Found, MismatchError, digest, measure
from zsad.weights.files import DiskError, write_whole
from zsad.weights.registry import NotPublishedError, SourceFile, WeightsEntry, known
from zsad.weights.sources import Asked, fetch_source, folder_of, mirrored, stem_of

Convert = Callable[[WeightsEntry, Sequence[Path]], bytes]
"""Reads the published files of an entry and returns the content of a safetensors file; raises if they do not fit."""

_FORMAT = 1
_ON_DISK = 12  # digits of the source's sha256 in the file's name


class ChangedWeightsWarning(UserWarning):
    """A file in the cache is not what was written there."""


def obtain(entry: WeightsEntry, convert: Convert, asked: Asked | None = None) -> Path:
    """Return the converted file of an entry; fetch, compare and convert it first if it is not here.

    A file that is here is compared with its note and nothing else: no connection is opened.

    Args:
        entry: Which adapters.
        convert: Reader of their layout.
        asked: How to get them.

    Raises:
        NotHereError: They are not here, and there is no network, or offline mode is on, or only a person can fetch
            them.
        NotPublishedError: There is nothing to fetch, or nothing that zsad can read.
        DownloadError: The download failed, or gave another file than expected.
    """
    if (path := cached(entry)) is not None:
        return path
    asked = asked or Asked()
    if not entry.files or entry.status == "none":
        raise NotPublishedError(f"No adapters '{entry.name}' are published: {entry.note}.")
    with _alone(entry) as locked:
        if (path := cached(entry)) is not None:  # another process was faster
            return path
        fetched = [fetch_source(entry, number, asked, locked) for number in range(len(entry.files))]
        path = _convert(entry, [one.path for one in fetched], convert, [one.url for one in fetched])
        for number, one in enumerate(fetched):
            if asked.keep:
                kept = path.with_name(
                    f"{path.stem}{f'-{number}' if number else ''}{Path(entry.files[number].path).suffix}"
                )
                shutil.copyfile(one.path, kept)
            if one.ours:
                one.path.unlink()
    return path


def add(entry: WeightsEntry, files: Sequence[Path], convert: Convert) -> Path:
    """Put adapters into the cache from files that somebody fetched by hand, and return the converted file.

    Raises:
        FileNotFoundError: A file is missing.
        MismatchError: A file is not the published one.
        ValueError: The number of files is wrong.
    """
    if len(files) != len(entry.files):
        names = ", ".join(Path(one.path).name for one in entry.files)
        raise ValueError(f"'{entry.name}' consists of {len(entry.files)} file(s) ({names}), got {len(files)}.")
    for path, source in zip(files, entry.files, strict=True):
        if not path.is_file():
            raise FileNotFoundError(f"No file '{path}'.")
        found = measure(path)
        if (other := known(found)) is not None and other[0].name != entry.name:
            raise MismatchError(_belongs_to(path, *other, entry.method))
        if (differs := source.expected.difference(found)) is not None:
            raise MismatchError(f"'{path}' is not the file that is published as '{entry.name}': {differs}.")
    with _alone(entry):
        return _convert(entry, files, convert, [str(path) for path in files])


def carry(entry: WeightsEntry, folder: Path, asked: Asked | None = None) -> list[Path]:
    """Put an entry's published files into a folder that serves as a mirror, and return them.

    Raises:
        NotHereError: They cannot be fetched.
        DownloadError: The download failed, or gave another file than expected.
    """
    asked = asked or Asked()
    targets = []
    with _alone(entry) as locked:
        for number, source in enumerate(entry.files):
            target = folder / mirrored(entry, number)
            if not target.is_file() or source.expected.difference(measure(target)) is not None:
                fetched = fetch_source(entry, number, asked, locked)
                _write(target, fetched.path.read_bytes())
                if fetched.ours:
                    fetched.path.unlink()
            targets.append(target)
    return targets


def refuse_another(path: Path, method: str) -> WeightsEntry | None:
    """Return whose published adapters a file is, None if the table does not know it.

    Args:
        path: A file that a user gave by its path.
        method: Class name of the method that is about to read it.

    Raises:
        MismatchError: It is a published file of another method.
    """
    found = known(measure(path))
    if found is None:
        return None
    if found[0].method != method:
        raise MismatchError(_belongs_to(path, *found, method))
    return found[0]


def _belongs_to(path: Path, entry: WeightsEntry, source: SourceFile, method: str) -> str:
    published = "/".join(Path(source.path).parts[-2:])
    same_layout = entry.status == "other" and entry.layout == method.lower()
    why = "it has the same layout, but belongs to another method" if same_layout else "it belongs to another method"
    if entry.method == method:
        return f"'{path}' is the published file of '{entry.name}' (by its hash), not the one that was asked for."
    return f"'{path}' is {entry.method}'s published '{published}' (by its hash), not {method}'s: {why}."


def is_here(entry: WeightsEntry) -> bool:
    """Return whether the adapters are in the cache, without reading them."""
    return any(path.is_file() and _accepts(entry, note) for path, note in _notes(entry))


def cached(entry: WeightsEntry) -> Path | None:
    """Return the converted file of an entry if it is here and unchanged; one that changed is moved out of the way."""
    for path, note in _notes(entry):
        if not path.is_file() or not _accepts(entry, note):
            continue
        if digest(path) == note["sha256"]:
            return path
        bad = path.with_name(f"{path.name}.bad")
        with suppress(OSError):  # a shared cache may be read-only
            os.replace(path, bad)
            warnings.warn(
                f"'{path}' has changed since it was downloaded. It was moved to '{bad}' and is downloaded again.",
                ChangedWeightsWarning,
                stacklevel=2,
            )
    return None


def intact(entry: WeightsEntry) -> bool:
    """Return whether every converted file of an entry in the cache is as its note says; nothing is moved."""
    pairs = [(path, note) for path, note in _notes(entry) if path.is_file()]
    return all(digest(path) == note.get("sha256") for path, note in pairs)


def read_note(entry: WeightsEntry) -> dict[str, Any]:
    """Return what is noted beside the converted file of an entry, empty if it is not here."""
    return next((note for path, note in _notes(entry) if path.is_file() and _accepts(entry, note)), {})


def add_to_note(entry: WeightsEntry, **facts: Any) -> None:
    """Add facts to the note beside the converted file of an entry; a cache that cannot be written stays as it is."""
    for path, note in _notes(entry):
        if path.is_file() and _accepts(entry, note):
            with suppress(DownloadError):
                _write(path.with_suffix(".json"), (json.dumps(note | facts, indent=2) + "\n").encode())


def remove(entry: WeightsEntry) -> list[Path]:
    """Delete everything of an entry from the cache and return what was deleted."""
    stem = stem_of(entry)
    names = [path for path, _ in _notes(entry)]
    files = [
        path.with_suffix(end) for path in names for end in (".safetensors", ".json", ".safetensors.bad", ".pth", ".pt")
    ]
    files += [one for one in folder_of(entry).glob(f"{stem}.source*") if one.is_file()]
    files.append(folder_of(entry) / f"{stem}.lock")
    gone = [path for path in dict.fromkeys(files) if path.is_file()]
    for path in gone:
        path.unlink()
    return gone


def _notes(entry: WeightsEntry) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder_of(entry).glob(f"{stem_of(entry)}-{'?' * _ON_DISK}.json")):
        with suppress(OSError, ValueError):
            note = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(note, dict) and note.get("name") == entry.name:
                yield path.with_suffix(".safetensors"), note


def _accepts(entry: WeightsEntry, note: dict[str, Any]) -> bool:
    """Whether a note tells of the files that the table pins, converted as this version does."""
    files = note.get("files")
    if note.get("format") != _FORMAT or not isinstance(files, list) or len(files) != len(entry.files):
        return False
    try:
        found = [Found(one["sha256"], one["git_blob"], one["size"]) for one in files]
    except (KeyError, TypeError):
        return False
    return all(one.expected.difference(got) is None for one, got in zip(entry.files, found, strict=True))


@contextmanager
def _alone(entry: WeightsEntry) -> Iterator[bool]:
    """Let one process at a time fetch an entry; yields False on a file system without locks."""
    folder = folder_of(entry)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{stem_of(entry)}.lock")
        lock.acquire()
    except NotImplementedError:
        yield False
        return
    except OSError as error:
        raise DownloadError(
            f"Cannot write to '{folder}' ({error.strerror or error}). Set ZSAD_HOME to another folder."
        ) from error
    try:
        yield True
    finally:
        lock.release()


def _convert(entry: WeightsEntry, files: Sequence[Path], convert: Convert, urls: Sequence[str]) -> Path:
    found = [measure(path) for path in files]
    content = convert(entry, files)
    folder, stem = folder_of(entry), f"{stem_of(entry)}-{_source_key(found)[:_ON_DISK]}"
    path = folder / f"{stem}.safetensors"
    _write(path, content)
    note = {
        "format": _FORMAT,
        "name": entry.name,
        "method": entry.method,
        "backbone": entry.backbone,
        "files": [
            {"address": _without_user(url), "commit": source.commit, **one._asdict()}
            for url, source, one in zip(urls, entry.files, found, strict=True)
        ],
        "sha256": digest(path),
        "zsad": __version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "licence": {"code": entry.code_licence, "weights": entry.weights_licence, "data": entry.data_licence},
        "commercial": entry.commercial,
        "trained_on": entry.training,
    }
    _write(path.with_suffix(".json"), (json.dumps(note, indent=2) + "\n").encode())
    return path


def _source_key(found: Sequence[Found]) -> str:
    import hashlib

    if len(found) == 1:
        return found[0].sha256
    return hashlib.sha256("".join(one.sha256 for one in found).encode()).hexdigest()


def _without_user(url: str) -> str:
    """Return an address without the name and password that a private mirror's may hold."""
    parts = urlsplit(url)
    return url if "@" not in parts.netloc else parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except DiskError as error:
        raise DownloadError(f"{error} ZSAD_HOME says where.") from error
