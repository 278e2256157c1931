"""Lists of images as files become records."""

import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from zsad.datamodules.dataset import DataWarning
from zsad.images.manifest import ALIASES, ManifestError, rows, value_of
from zsad.types import Record

_KEYS = ("image_path", "mask_path", "class_name", "label", "defect", "split")
_LABELS = {"0": 0, "1": 1, "normal": 0, "anomaly": 1, "good": 0, "anomalous": 1}


def read_manifest(
    path: Path, root: Path | None = None, split: str = "test", class_name: str = "object", strict: bool = True
) -> Iterator[Record]:
    """Yield the records of a CSV, JSON-lines or Parquet file or of a ``meta.json``.

    Columns or keys: ``image_path`` (also ``path``, ``image``, ``img_path``), ``label`` (also ``anomaly``; 0, 1, 0.0,
    1.0, ``normal``, ``anomaly``), ``mask_path`` (``mask``), ``class_name`` (``object``, ``cls_name``), ``defect``
    (``specie_name``) and ``split``; all but the first may be missing or empty. A missing label follows from the mask.
    ``meta.json`` is ``{split: {class: [entry, ...]}}``.

    Args:
        path: The list.
        root: What paths are relative to; by default the folder of the list.
        split: Yield only rows of this split (ignoring case), and rows without one.
        class_name: Class of rows without one.
        strict: Refuse paths outside ``root``; a list from elsewhere may name any file of this machine.

    Raises:
        ManifestError: A row is not understood, there is no image column, or a path leaves the root in strict mode.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No manifest '{path}'.")
    root = path.parent if root is None else root
    derived = 0
    for where, row in rows(path, split):
        entry = {key: value_of(row, key) for key in _KEYS}
        if entry["image_path"] is None:
            raise ManifestError(f"{where} has no image path; expected one of {ALIASES['image_path']} in {sorted(row)}.")
        if entry["split"] is not None and str(entry["split"]).lower() != split.lower():
            continue
        label = _label(entry["label"], where)
        if label is None:
            label, derived = int(entry["mask_path"] is not None), derived + 1
        mask = None if entry["mask_path"] is None else _locate(str(entry["mask_path"]), root, strict, where)
        yield Record(
            image_path=_locate(str(entry["image_path"]), root, strict, where),
            class_name=str(entry["class_name"] or class_name),
            label=label,
            mask_path=mask,
            defect=str(entry["defect"] or ""),
        )
    if derived:
        warnings.warn(
            f"'{path}': {derived} row(s) without a label were taken as anomalous if they have a mask, else as normal.",
            DataWarning,
            stacklevel=2,
        )


def _label(value: Any, where: str) -> int | None:
    if value is None:
        return None
    text = str(value).strip().lower()
    try:
        return _LABELS[text.removesuffix(".0")] if not isinstance(value, bool) else int(value)
    except KeyError:
        raise ManifestError(f"{where}: label {value!r} is not one of 0, 1, 'normal', 'anomaly'.") from None


def _locate(text: str, root: Path, strict: bool, where: str) -> Path:
    """Return the file that a path means; one of another machine is found by its longest ending below the root."""
    path = root / text
    moved = Path(text).is_absolute() or "\\" in text or text[1:2] == ":"
    if moved and not path.exists():
        parts = PurePosixPath(text.replace("\\", "/")).parts
        endings = (root.joinpath(*parts[start:]) for start in range(1 if parts[0] == "/" else 0, len(parts)))
        path = next((ending for ending in endings if ending.exists()), path)
    if strict and not path.resolve().is_relative_to(root.resolve()):
        raise ManifestError(f"{where}: '{text}' lies outside '{root}'; strict=False allows it.")
    return path
