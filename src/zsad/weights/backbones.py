"""Weights of backbones that were carried to a machine without a network, in the cache or in a mirror's folder."""

import json
import shutil
from pathlib import Path

from zsad.weights import places
from zsad.weights.expected import digest

_NOTE = "backbone.json"


def stored(name: str) -> Path | None:
    """Return the weights file of a backbone below the cache or the mirror, None if there is none.

    Its size is compared with the note beside it, its hash by ``zsad weights verify``.

    Args:
        name: ``"<open_clip model>/<tag>"``.
    """
    for folder in _folders(name):
        note = _note(folder)
        path = folder / str(note.get("file"))
        if note and path.is_file() and path.stat().st_size == note.get("size"):
            return path
    return None


def intact(name: str) -> bool:
    """Return whether the stored file of a backbone has the hash that its note says."""
    path = stored(name)
    return path is not None and digest(path) == _note(path.parent).get("sha256")


def carry(name: str, source: Path, base: Path) -> Path:
    """Copy the weights file of a backbone into a folder that serves as a mirror, and return the copy.

    Args:
        name: ``"<open_clip model>/<tag>"``.
        source: The file.
        base: The mirror.
    """
    folder = base / "backbones" / name
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    if (note := _note(folder)) and target.is_file() and digest(target) == note.get("sha256"):
        return target
    part = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)
    note = {"name": name, "file": target.name, "size": target.stat().st_size, "sha256": digest(target)}
    (folder / _NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    return target


def carried() -> list[str]:
    """Return the names of all backbones below the cache and the mirror."""
    roots = [folder / "backbones" for folder in _bases()]
    found = [note.parent.relative_to(root).as_posix() for root in roots for note in sorted(root.rglob(_NOTE))]
    return list(dict.fromkeys(found))


def _bases() -> list[Path]:
    base = places.mirror()
    folder = None if base is None else places.as_folder(base)
    return [places.weights_folder(), *([] if folder is None else [folder])]


def _folders(name: str) -> list[Path]:
    if ".." in name or name.startswith("/"):
        return []
    return [base / "backbones" / name for base in _bases()]


def _note(folder: Path) -> dict[str, object]:
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and Path(str(note.get("file"))).name == note.get("file") else {}
