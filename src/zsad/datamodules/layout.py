"""Folder layouts that several benchmarks and users share, read into records."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from zsad.images import is_image
from zsad.images.listing import extension
from zsad.types import Record

MASK_SUFFIXES = ("_mask", "_label", "_segmentation", "_gt", "")
"""Endings that turn an image's stem into its mask's, ignoring case; the empty one means equal stems."""


class PairingError(ValueError):
    """Images and masks of a folder do not belong together one to one."""


def images_in(folder: Path) -> list[Path]:
    """Return the image files directly in a folder, sorted by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(e.name for e in entries if is_image(e.name) and not e.is_dir())]


def stem(path: Path) -> str:
    """Return a file's name without its ending, of ``scan.nii.gz`` too."""
    return path.name.removesuffix(extension(path.name))


def folders_in(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, but hidden ones, sorted by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))]


def child(folder: Path, *names: str) -> Path | None:
    """Return the folder or file in ``folder`` that has one of the names, whatever its case; earlier names first."""
    if not folder.is_dir():
        return None
    found = {entry.lower(): folder / entry for entry in sorted(os.listdir(folder), reverse=True)}
    exact = next((folder / name for name in names if (folder / name).exists()), None)
    return exact or next((found[name.lower()] for name in names if name.lower() in found), None)


def pair(images: Sequence[Path], masks: Iterable[Path], suffixes: Sequence[str] = MASK_SUFFIXES) -> dict[Path, Path]:
    """Return image -> mask, matched by stem after taking one of the suffixes off the mask's.

    Raises:
        PairingError: An image has no mask or two, or a mask no image; the message names the files.
    """
    masks = list(masks)
    by_stem: dict[str, list[Path]] = {}
    for image in images:
        by_stem.setdefault(stem(image), []).append(image)
    pairs: dict[Path, Path] = {}
    surplus, doubled = [], []
    for mask in masks:
        own = stem(mask)
        stems = (own[: len(own) - len(s)] for s in suffixes if own.lower().endswith(s.lower()))
        partners = next((by_stem[one] for one in stems if one in by_stem), [])
        if not partners:
            surplus.append(mask)
        for image in partners:
            if image in pairs:
                doubled.append(mask)
            pairs[image] = mask
    missing = [image for image in images if image not in pairs]
    problems = [
        f"{len(paths)} {what}: {_names(paths)}"
        for what, paths in (("image(s) without mask", missing), ("mask(s) without image", surplus))
        if paths
    ]
    if doubled:
        problems.append(f"{len(doubled)} second mask(s) for an image: {_names(doubled)}")
    if problems:
        raise PairingError(f"Images and masks do not match by name (suffixes {list(suffixes)}). {'; '.join(problems)}.")
    return pairs


def mvtec_class(
    folder: Path,
    class_name: str,
    split: str = "test",
    normal: Sequence[str] = ("good",),
    suffixes: Sequence[str] = MASK_SUFFIXES,
    masks: Path | None = None,
    require_masks: bool = True,
) -> Iterator[Record]:
    """Yield the records of one class folder ``<split>/<defect>/*``, masks in ``ground_truth/<defect>/*``.

    Args:
        folder: The class folder.
        class_name: What to call the class.
        split: Its subfolder; ``""`` takes ``folder`` itself for the split.
        normal: Names of the folders that hold normal images, ignoring case.
        suffixes: See :func:`pair`.
        masks: Where the mask folders are; ``folder/ground_truth`` by default.
        require_masks: False accepts defects without a mask folder; their records have no masks then.

    Raises:
        PairingError: Images and masks of a defect folder do not match.
    """
    truth = masks or child(folder, "ground_truth")
    for group in folders_in(folder / split if split else folder):
        if group == truth:
            continue
        images = images_in(group)
        if group.name.lower() in {name.lower() for name in normal}:
            yield from (Record(image, class_name, 0, None, group.name) for image in images)
            continue
        marked = child(truth, group.name) if truth is not None else None
        pairs = pair(images, images_in(marked) if marked else (), suffixes) if marked or require_masks else {}
        yield from (Record(image, class_name, 1, pairs.get(image), group.name) for image in images)


def flat_pair(images: Path, masks: Path, class_name: str, suffixes: Sequence[str] = MASK_SUFFIXES) -> Iterator[Record]:
    """Yield anomalous records from a folder of images and a folder of masks.

    Raises:
        PairingError: Images and masks do not match.
    """
    pairs = pair(images_in(images), images_in(masks), suffixes)
    yield from (Record(image, class_name, 1, mask) for image, mask in pairs.items())


def _names(paths: Sequence[Path], most: int = 10) -> str:
    rest = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(f"'{path}'" for path in sorted(paths)[:most]) + rest
