"""The files of a run: found once, in a fixed order, each of them once, and known by where they really lie."""

import glob
import hashlib
import json
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsad.images.fragments import resolved, split
from zsad.images.listing import Found
from zsad.images.manifest import inputs
from zsad.images.medical import expand_slices, slice_step

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is remembered of a file to see whether it has changed.

    Args:
        bytes: Its size.
        mtime: When it was last written, in seconds since 1970, to the microsecond.
        sha256: Digest of its content in 64 hexadecimal digits; None unless asked for.
        sop_instance: Digest of a DICOM file's SOP instance UID; nothing else of its header is kept.
    """

    bytes: int
    mtime: float
    sha256: str | None = None
    sop_instance: str | None = None

    @classmethod
    def of(cls, path: str | Path, content: bool = False) -> "FileFacts | None":
        """Return the facts of a file; None if it is not there or cannot be opened.

        Args:
            path: The file, or a part of it.
            content: Whether it is read for its digest.
        """
        file, _ = split(path)
        try:
            stat = os.stat(file)
            return cls(stat.st_size, round(stat.st_mtime, 6), sha256(file) if content else None)
        except OSError:
            return None


def sha256(path: str | Path) -> str:
    """Return the digest of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_MIB):
            digest.update(block)
    return digest.hexdigest()


def identity(path: str, base: str | Path = "") -> str:
    """Return what makes two spellings one image: the resolved path, or the resolved path and the fragment.

    Args:
        path: As shown in a row; a fragment such as ``#xywh=0,0,64,64`` counts only where no file has that very name.
        base: Folder that relative paths start from; the current one by default.
    """
    return resolved(os.path.join(base, path))


def digest(real: str) -> int:
    """Return 64 bits of an identity, enough to tell ten million images apart."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(real), digest_size=8).digest(), "little")


def contains(sorted_digests: NDArray[np.uint64], value: int) -> bool:
    """Return whether a digest is in a sorted array."""
    place = int(np.searchsorted(sorted_digests, np.uint64(value)))
    return place < len(sorted_digests) and int(sorted_digests[place]) == value


class FileList:
    """The images under some paths, in sorted order, each of them once however many names lead to it.

    The folders are walked once, when this is made; the list waits in a temporary file, so that memory holds eight
    bytes per image and a folder that is removed later leaves a row for each of its images.

    Args:
        paths: Files, folders, manifests, and patterns such as ``"photos/*.png"`` where no file has that very name.
        exclude: Patterns of shown paths that are left out.
        avoid: Folder that is not entered: a run's own output is never its input.
        slices: ``"all"`` or ``"every:5"``: volumes and files of several pictures stand for so many of their slices.
        naming: Gives each file its class, see :class:`zsad.inference.products.ClassNames`.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: ``slices`` is neither.
    """

    def __init__(
        self,
        paths: Sequence[str],
        exclude: Sequence[str] = (),
        avoid: str | Path | None = None,
        slices: str | None = None,
        naming: Callable[[Found], Found] | None = None,
    ) -> None:
        self.passed: Counter[str] = Counter()
        """Files that are no images, counted by extension."""
        given = outermost(expanded(paths))
        self.avoided: list[str] = [] if avoid is None else [os.fspath(avoid)]
        """Folders that are not entered."""
        if avoid is not None and os.path.realpath(avoid) in map(os.path.realpath, given):
            self.avoided = [os.path.join(avoid, name) for name in ("overlays", "maps")]  # results beside the images
        self._exclude, self._slices, self._naming = exclude, slices, naming
        self._keep(self.chosen(inputs(given, self.passed, self.avoided)))

    def chosen(self, files: Iterable[Found]) -> Iterator[Found]:
        """Yield the images that files stand for, with their classes, without those that are left out."""
        for image in sliced(files, self._slices):
            if not any(fnmatch(image.path, pattern) for pattern in self._exclude):
                yield image if self._naming is None else self._naming(image)

    @classmethod
    def of(cls, files: Iterable[Found]) -> "FileList":
        """Return the list of files that were found before."""
        made = cls.__new__(cls)
        made.passed = Counter()
        made._keep(files)
        return made

    def _keep(self, files: Iterable[Found]) -> None:
        self.repeated = 0
        """Names of images that another name stands for already."""
        self.roots: list[str] = []
        """The resolved folders that paths below start from, in order."""
        self.named: set[str] = set()
        """The classes that a manifest or a rule names."""
        self.all_named = True
        """Whether every readable image has one of them."""
        self._spool = tempfile.TemporaryFile(prefix="zsad-")  # noqa: SIM115
        found_digests = array("Q")
        roots: dict[str, None] = {}
        for found in files:
            roots[found.root] = None
            if found.class_name is not None:
                self.named.add(found.class_name)
            self.all_named &= found.class_name is not None or found.error is not None
            found_digests.append(digest(found.real))
            self._spool.write(json.dumps(astuple(found)).encode() + b"\n")
        self.roots = list(roots)
        every = np.frombuffer(found_digests, dtype=np.uint64) if found_digests else np.empty(0, np.uint64)
        self.digests, counts = np.unique(every, return_counts=True)
        self._several = frozenset(map(int, self.digests[counts > 1]))
        self.repeated = len(every) - len(self.digests)

    def classes(self, usual: str) -> list[str]:
        """Return the classes of the images, sorted; ``usual`` is that of images without one of their own."""
        return sorted(self.named if self.all_named and self.named else {*self.named, usual})

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.digests)

    def __contains__(self, real: str) -> bool:
        """Return whether an image of that identity is in the list."""
        return contains(self.digests, digest(real))

    def __iter__(self) -> Iterator[Found]:
        """Yield the images; a folder that could not be walked comes as an item with its error."""
        met: set[int] = set()
        place = 0
        while True:
            self._spool.seek(place)  # several may read at once
            line = self._spool.readline()
            if not line:
                return
            place += len(line)
            found = Found(*json.loads(line))
            if self._several and (value := digest(found.real)) in self._several:
                if value in met:
                    continue
                met.add(value)
            yield found


def sliced(files: Iterable[Found], slices: str | None) -> Iterator[Found]:
    """Yield files with the slices of volumes in their place; a file that cannot be opened comes as it is.

    Raises:
        ValueError: ``slices`` is neither ``"all"`` nor ``"every:5"``.
    """
    if slices is None:
        yield from files
        return
    slice_step(slices)
    for found in files:
        try:
            parts = [] if found.error else list(expand_slices(found.path, slices))
        except (OSError, ValueError):  # reading it says what is wrong
            parts = []
        for part in parts or [found.path]:
            _, fragment = split(part)
            mark = f"#{fragment}" if part != found.path else ""
            real, below = (split(name)[0] if mark else name for name in (found.real, found.below))
            yield Found(part, real + mark, below + mark, found.root, found.error)


def expanded(paths: Iterable[str]) -> list[str]:
    """Return the paths with patterns (``*``, ``?``, ``[...]``, ``**``) replaced by what they match, sorted.

    Raises:
        FileNotFoundError: A pattern matches nothing.
    """
    result = []
    for path in paths:
        if os.path.lexists(path) or not glob.has_magic(path):
            result.append(path)
            continue
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise FileNotFoundError(f"No file matches the pattern '{path}'.")
        result += matches
    return result


def outermost(paths: Sequence[str]) -> list[Path]:
    """Return the paths without repetitions and without those inside another one, so that no image is met twice."""
    whole = {os.path.realpath(path): Path(path) for path in reversed(paths)}
    inner = {path for path in whole if any(str(above) in whole for above in Path(path).parents)}
    return [path for real, path in reversed(whole.items()) if real not in inner]
