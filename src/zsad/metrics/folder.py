"""Metrics for anomaly maps from anywhere: a folder of maps against a folder of masks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.images import IMAGE_EXTENSIONS, ImageError, load_mask
from zsad.images import maps as map_files
from zsad.images.cells import read_cells
from zsad.metrics import EvaluationResult, Evaluator

MAP_EXTENSIONS = frozenset({".npy", ".tif", ".tiff", ".png"})
MASK_EXTENSIONS = MAP_EXTENSIONS | {".bmp", ".gif", ".jpg", ".jpeg"}
NORMAL_FOLDERS = frozenset({"good", "normal", "ok"})
"""Names of folders whose images have no mask because they are normal."""
_PASSED_OVER = frozenset({"test", "ground_truth", "maps", "masks", "anomaly_maps"})
_ENDINGS = ("_mask", "_map", "_anomaly_map")
_COLUMNS = {
    "path": ("path", "image_path", "image", "file"),
    "score": ("score", "pred_score"),
    "label": ("label", "gt_label"),
}

Key = tuple[str, ...]


class EvaluationDataError(ValueError):
    """Maps, masks and scores do not fit together, or a file cannot be read; the message names the file."""


@dataclass(frozen=True)
class Item:
    """One image of the evaluation."""

    key: Key
    class_name: str
    map_path: Path
    mask_path: Path | None
    score: float | None
    label: int | None


def evaluate_folder(
    maps: str | Path,
    masks: str | Path,
    scores: str | Path | None = None,
    *,
    class_name: str | None = None,
    missing_mask: Literal["error", "normal"] = "error",
    progress: bool = False,
    **options: Any,
) -> EvaluationResult:
    """Return the metrics of anomaly maps that any program has written.

    Maps are ``.npy``, ``.tif``, ``.tiff`` or ``.png`` files with one channel, larger meaning more anomalous; masks are
    images or ``.npy`` files in which everything but 0 is defect. A map finds its mask by its path below the folder,
    without extension: folders named ``test``, ``ground_truth``, ``maps``, ``masks`` or ``anomaly_maps`` and the endings
    ``_mask``, ``_map`` and ``_anomaly_map`` are passed over, so that ``screw/test/broken/000.tiff`` belongs to
    ``screw/ground_truth/broken/000_mask.png``. The first folder is the class. One map is in memory at a time.

    Args:
        maps: Folder of maps, nested or flat.
        masks: Folder of masks, or a data set with folders ``ground_truth``. A map in a folder named ``good``,
            ``normal`` or ``ok`` needs none.
        scores: CSV file with image scores: columns ``path`` and ``score``, optionally ``label`` (1 anomalous, 0
            normal; those of ``zsad score`` are decisions and are passed over). By default an image's score is the
            maximum of its map. Without labels an image counts as anomalous if its mask has a pixel, which overlooks
            defects that were too small to be drawn.
        class_name: Class of maps that lie directly in the folder; its name by default.
        missing_mask: What a map without a mask means outside those folders: an error, or a normal image.
        progress: Whether to show a progress bar.
        **options: Of :class:`~zsad.metrics.Evaluator`: ``mode``, ``score_range``, ``metrics``, ``resize`` and so on.

    Raises:
        FileNotFoundError: If a folder or file does not exist.
        EvaluationDataError: If maps, masks and scores do not fit together or a file cannot be read.
        ValueError: If an option is unknown or a score is not finite.
    """
    items = list(find_items(Path(maps), Path(masks), scores, class_name, missing_mask))
    evaluator = Evaluator(**options)
    before: Item | None = None
    for item in _shown(items, progress):
        if before is not None and item.class_name != before.class_name:
            evaluator.finish(before.class_name)  # items come class by class: release the memory of the last one
        _add(evaluator, item)
        before = item
    return evaluator.compute()


def _add(evaluator: Evaluator, item: Item) -> None:
    anomaly_map = read_map(item.map_path)
    mask = torch.zeros(anomaly_map.shape, dtype=torch.bool)
    if item.mask_path is not None:
        mask = read_mask(item.mask_path)
    if mask.shape != anomaly_map.shape and evaluator.resize == "error":
        raise EvaluationDataError(
            f"{item.map_path} is {tuple(anomaly_map.shape)} pixels (height, width), its mask {item.mask_path} "
            f"{tuple(mask.shape)}: say resize='mask' or resize='map'."
        )
    score = anomaly_map.amax() if item.score is None else torch.tensor(item.score, dtype=torch.float64)
    label = torch.tensor([bool(mask.any()) if item.label is None else item.label])
    evaluator.update([item.class_name], score[None], label, [anomaly_map], [mask], [str(item.map_path)])


# ---- files that belong together


def find_items(
    maps: Path,
    masks: Path,
    scores: str | Path | None = None,
    class_name: str | None = None,
    missing_mask: Literal["error", "normal"] = "error",
) -> Iterator[Item]:
    """Yield the images to evaluate, class by class; see :func:`evaluate_folder`.

    Raises:
        FileNotFoundError: If a folder or file does not exist.
        EvaluationDataError: If there is no map, a mask or score is missing, or two files have one name.
    """
    if missing_mask not in ("error", "normal"):
        raise ValueError(f"missing_mask must be 'error' or 'normal', got {missing_mask!r}.")
    map_of, mask_of = _index(maps, MAP_EXTENSIONS, "maps"), _index(masks, MASK_EXTENSIONS, "masks")
    if not map_of:
        raise EvaluationDataError(f"No maps under '{maps}': expected files with {', '.join(sorted(MAP_EXTENSIONS))}.")
    row_of = _rows(Path(scores), map_of) if scores is not None else {}
    for key in sorted(map_of, key=lambda key: (key[0] if len(key) > 1 else "", key)):
        mask = mask_of.get(key)
        if mask is None and missing_mask == "error" and NORMAL_FOLDERS.isdisjoint(part.lower() for part in key[:-1]):
            raise EvaluationDataError(
                f"'{map_of[key]}' has no mask '{'/'.join(key)}' under '{masks}': add it, move the map to a folder "
                "'good', or say missing_mask='normal' if every image without a mask is normal."
            )
        score, label = row_of.get(key, (None, None))
        name = key[0] if len(key) > 1 else class_name or maps.resolve().name
        yield Item(key, name, map_of[key], mask, score, label)


def _index(folder: Path, extensions: frozenset[str], what: str) -> dict[Key, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder of {what} does not exist: '{folder}'.")
    found: dict[Key, Path] = {}
    paths = sorted(folder.rglob("*"))
    if what == "masks" and (marked := [path for path in paths if "ground_truth" in path.relative_to(folder).parts]):
        paths = marked  # the root of a data set: the images beside the masks are none
    for path in paths:
        if path.suffix.lower() not in extensions or path.name.startswith(".") or not path.is_file():
            continue
        key = _key(path.relative_to(folder))
        if key in found:
            raise EvaluationDataError(f"'{found[key]}' and '{path}' both are the {what[:-1]} of '{'/'.join(key)}'.")
        found[key] = path
    return found


def _key(path: Path) -> Key:
    """Return what a map and its mask have in common: folders and name."""
    stem = path.stem
    if Path(stem).suffix.lower() in IMAGE_EXTENSIONS:  # "photo.png.npy": zsad names what it makes of "photo.png"
        stem = Path(stem).stem
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if stem.endswith(ending):
            stem = stem.removesuffix(ending)
            break
    return (*(part for part in path.parent.parts if part not in _PASSED_OVER), stem)


def _rows(path: Path, keys: Iterable[Key]) -> dict[Key, tuple[float, int | None]]:
    """Return score and label of each map from a CSV file, whose paths may begin with any further folders."""
    if not path.is_file():
        raise FileNotFoundError(f"The file of scores does not exist: '{path}'.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(read_cells(file))
    names = _columns(path, rows[0] if rows else {})
    by_tail: dict[Key, list[dict[str, str]]] = defaultdict(list)
    lengths = {len(key) for key in keys}
    for row in rows:
        key = _key(Path(row[names["path"]]))
        for length in lengths:
            if len(key) >= length:
                by_tail[key[-length:]].append(row)
    found = {}
    for key in keys:
        matches = by_tail.get(key, [])
        if len(matches) != 1:
            how = f"{len(matches)} rows" if matches else "no row"
            raise EvaluationDataError(f"'{path}' has {how} for '{'/'.join(key)}'; expected one per map.")
        found[key] = _values(path, matches[0], names)
    return found


def _columns(path: Path, row: dict[str, str]) -> dict[str, str]:
    names = {what: next((name for name in known if name in row), "") for what, known in _COLUMNS.items()}
    if "alarm_rate" in row:  # of 'zsad score': its labels are decisions, not what is true
        names["label"] = ""
    for what in ("path", "score"):
        if not names[what]:
            raise EvaluationDataError(f"'{path}' needs a column '{what}'; it has {', '.join(row) or 'no rows'}.")
    return names


def _values(path: Path, row: dict[str, str], names: dict[str, str]) -> tuple[float, int | None]:
    text = row.get(names["label"]) if names["label"] else None
    try:
        label = None if not text else int(float(text))
        score = float(row[names["score"]])
    except (TypeError, ValueError):
        raise EvaluationDataError(f"'{path}': the row of '{row[names['path']]}' needs numbers, got {row}.") from None
    if label not in (None, 0, 1):
        raise EvaluationDataError(f"'{path}': the label of '{row[names['path']]}' must be 0 or 1, got {text}.")
    return score, label


# ---- reading


def read_map(path: Path) -> Tensor:
    """Return a map file as a (height, width) tensor: float64 stays, everything else becomes float32.

    Raises:
        EvaluationDataError: If the file cannot be read or has several channels.
    """
    return torch.from_numpy(_read(map_files.read_map, path))


def read_mask(path: Path) -> Tensor:
    """Return a mask file as a (height, width) bool tensor: everything but 0 is defect.

    Raises:
        EvaluationDataError: If the file cannot be read or has no two dimensions.
    """
    if path.suffix.lower() != ".npy":
        return torch.from_numpy(np.array(_read(load_mask, path)))
    values = _read(map_files.read_array, path).squeeze()
    if values.ndim != 2:
        raise EvaluationDataError(f"'{path}' must have two dimensions, got shape {values.shape}.")
    return torch.from_numpy(values != 0)


def _read(reader: Callable[[Path], NDArray[Any]], path: Path) -> NDArray[Any]:
    try:
        return reader(path)
    except ImageError as error:
        raise EvaluationDataError(str(error)) from error


def _shown(items: list[Item], progress: bool) -> Iterable[Item]:
    if not progress:
        return items
    from rich.progress import track

    return track(items, description="evaluating")
