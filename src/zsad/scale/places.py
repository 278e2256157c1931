"""Folders and files by address: on this machine, or on a file system that fsspec knows (``s3://``, ``gs://``, ...)."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zsad.inference import settings
from zsad.inference.lock import FolderInUseError


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether this is an address and not a path of this machine."""
    return "://" in os.fspath(path)


def system(url: str, **options: bool) -> tuple[Any, str]:
    """Return the file system of an address, by fsspec, and the path on it.

    Credentials are those of the environment's usual chain; there are no options for them.

    Args:
        url: The address.
        options: What every file system of fsspec takes.

    Raises:
        ValueError: Nothing here speaks that protocol; the message says what is missing.
    """
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise ValueError(f"Cannot reach '{url}': {error}") from error
    return found


@dataclass(frozen=True)
class Place:
    """The folder of a job's results.

    Args:
        path: Absolute path or address; every machine of the cluster must reach it.
    """

    path: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "Place":
        """Return the place of a path or an address."""
        text = os.fspath(path)
        return cls(text.rstrip("/") if is_url(text) else os.path.abspath(text))

    @property
    def remote(self) -> bool:
        """Whether it is an address."""
        return is_url(self.path)

    def below(self, *parts: str) -> str:
        """Return the path of something below it."""
        return "/".join((self.path, *parts)) if self.remote else os.path.join(self.path, *parts)

    def arrow(self) -> Any:
        """Return the file system for Ray and pyarrow, None for this machine's."""
        if not self.remote:
            return None
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(self._there()[0]))

    def inner(self, *parts: str) -> str:
        """Return a path below it as its file system spells it."""
        return self._there(*parts)[1] if self.remote else self.below(*parts)

    def _there(self, *parts: str) -> tuple[Any, str]:
        # other machines write here: a listing that this process keeps is soon out of date
        return system(self.below(*parts), use_listings_cache=False)

    def names(self, folder: str) -> list[str]:
        """Return the names of the Parquet files in a folder of it, sorted; none if there is no such folder."""
        if not self.remote:
            return sorted(path.name for path in Path(self.below(folder)).glob("*.parquet"))
        files, inner = self._there(folder)
        found = files.ls(inner, detail=False) if files.exists(inner) else []
        return sorted(name for name in (one.rsplit("/", 1)[-1] for one in found) if name.endswith(".parquet"))

    def make(self, folder: str = "") -> None:
        """Make it, or a folder of it; an object store has none to make."""
        files, inner = self._there(folder) if folder else self._there()
        files.makedirs(inner, exist_ok=True)

    def holds(self, folder: str) -> bool:
        """Return whether it has a folder of that name."""
        files, inner = self._there(folder)
        return bool(files.exists(inner))

    def remove(self, folder: str) -> None:
        """Remove a folder of it, if it is there."""
        if self.holds(folder):
            files, inner = self._there(folder)
            files.rm(inner, recursive=True)

    @contextmanager
    def near(self) -> Iterator[Path]:
        """Give a folder of this machine whose files are those of the place once the block has ended without error."""
        if not self.remote:
            yield Path(self.path)
            return
        with TemporaryDirectory(prefix="zsad-") as made:
            yield Path(made)
            files, inner = self._there()
            made_here = sorted(filter(Path.is_file, Path(made).rglob("*")))
            names = [f"{inner}/{file.relative_to(made).as_posix()}" for file in made_here]
            for folder in {name.rpartition("/")[0] for name in names}:
                files.makedirs(folder, exist_ok=True)
            files.put(list(map(str, made_here)), names)  # an object store takes many at a time

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of the run that is there; None if there is none.

        Raises:
            SettingsError: They are damaged, of another format, or missing beside rows.
        """
        if not self.remote:
            return settings.read_settings(Path(self.path))
        files, inner = self._there("settings.json")
        with TemporaryDirectory(prefix="zsad-") as made:
            if files.exists(inner):
                files.get_file(inner, os.path.join(made, "settings.json"))
            return settings.read_settings(Path(made))

    def note(self, values: Mapping[str, Any], first: bool = False) -> None:
        """Write the settings of the run.

        Args:
            values: JSON values.
            first: Whether there must be none yet: on an object store that is what keeps a second job out.

        Raises:
            FolderInUseError: Another job has just begun there.
        """
        if not self.remote:
            settings.write_settings(Path(self.path), values)
            return
        files, inner = self._there("settings.json")
        with TemporaryDirectory(prefix="zsad-") as made:
            settings.write_settings(Path(made), values)
            text = Path(made, "settings.json").read_bytes()
        try:
            files.pipe_file(inner, text, mode="create" if first else "overwrite")
        except FileExistsError as error:
            raise FolderInUseError(f"Another job has just begun in '{self.path}'. Give this one a folder.") from error
