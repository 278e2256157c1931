"""The folder of an export: what its ``meta.json`` says, and that every file is the one it says."""

import json
from pathlib import Path
from typing import Any

from zsad.inference.files import sha256

FORMAT = "zsad-export/1"
META, MODEL, PROGRAM, CARD, PROOF = "meta.json", "model.onnx", "model.pt2", "card.json", "verify.json"
_COMPARED = ("model.", PROOF)  # a card, a Dockerfile or the page may be replaced by others
_MOST_BYTES = 16 * 1024 * 1024
_NEEDED = ("files", "classes", "class_agnostic", "model", "protocol", "map_range", "precision", "verification")


class FolderError(ValueError):
    """A folder holds no export, one of an unknown format, or files that are not those of the export."""


def read_meta(folder: Path, check: bool = True) -> dict[str, Any]:
    """Return the content of ``meta.json``.

    Args:
        folder: Of the export.
        check: Whether the digests of the model and of its proof are compared.

    Raises:
        FolderError: The folder is no export, of another format, or a file in it is missing or was changed.
    """
    path = folder / META
    if not path.is_file():
        raise FolderError(f"'{folder}' is no exported model: it has no {META}. 'zsad export' writes such a folder.")
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    try:
        meta = json.loads(data) if len(data) <= _MOST_BYTES else None
    except ValueError:
        meta = None
    if not isinstance(meta, dict):
        raise FolderError(f"'{path}' is damaged: export the model again.")
    if meta.get("format") != FORMAT:
        raise FolderError(f"'{path}' has format {meta.get('format')!r}; this version reads '{FORMAT}'.")
    if missing := [name for name in _NEEDED if name not in meta]:
        raise FolderError(f"'{path}' lacks {', '.join(missing)}: export the model again.")
    if check:
        _compare(folder, meta["files"])
    return meta


def _compare(folder: Path, files: dict[str, str]) -> None:
    for name, digest in files.items():
        if not name.startswith(_COMPARED) or Path(name).name != name:
            continue
        path = folder / name
        if not path.is_file():
            raise FolderError(f"'{path}' is missing, and the export needs it: copy the whole folder.")
        if sha256(path) != digest:
            raise FolderError(
                f"'{path}' is not the file of this export: its content has another digest than {META} says. "
                f"Copy the folder again, or export the model again."
            )
