"""The heat maps of a run: one colour scale for all of them, and names that say whose they are."""

import errno
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from zsad.images.listing import Found
from zsad.images.overlay import Limits, Scale
from zsad.inference.lock import full_disk
from zsad.inference.result import Result

FIRST = 50
"""Images whose maps decide the scale of a run."""

_QUANTILES = (0.01, 0.999)
_LONGEST = 120  # bytes of a name's part; file systems allow 255, of which the ending takes some
_SHOWS = 0.5  # share of the method's range that maps must use for that range to show something


def scale_of(maps: Sequence[np.ndarray], map_range: Limits | None) -> Limits:
    """Return the values of the first and the last colour for a run, from its first maps.

    The 1 % and the 99.9 % quantile of all their values; the method's range where the maps use half of it or more.
    """
    values = np.concatenate([one.ravel() for one in maps]) if maps else np.zeros(1, np.float32)
    low, high = (float(f"{value:.6g}") for value in np.quantile(values, _QUANTILES))
    if map_range is not None and (not low < high or high - low >= _SHOWS * (map_range[1] - map_range[0])):
        return map_range
    return (low, high) if low < high else (low, low + 1.0)


def labels_of(roots: Sequence[str], earlier: Mapping[str, str]) -> dict[str, str]:
    """Return a folder name for each input folder: none for the first, its own name for others, numbered if taken.

    Args:
        roots: Resolved input folders, in order.
        earlier: What earlier calls gave; it stays.
    """
    labels = dict(earlier)
    for root in roots:
        if root in labels:
            continue
        name = _part(os.path.basename(root) or "root")
        taken = {*labels.values()}
        numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
        labels[root] = "" if not taken else name if name not in taken else next(n for n in numbered if n not in taken)
    return labels


def overlay_name(found: Found, labels: Mapping[str, str]) -> str:
    """Return the path of an image's heat map below the run's folder: the image's own path, with ``.jpg`` added."""
    return output_name(found, labels, "overlays") + ".jpg"


def output_name(found: Found, labels: Mapping[str, str], folder: str) -> str:
    """Return the path of what is made of an image, without its ending, in a folder of the run.

    Parts that are too long for a file system are cut and get a digest.
    """
    label = labels.get(found.root, "")
    parts = [_part(part) for part in found.below.split("/")]
    return "/".join([folder, *([f"from {label}"] if label else []), *parts])


def _part(name: str) -> str:
    data = os.fsencode(name)
    if len(data) <= _LONGEST:
        return name
    digest = hashlib.blake2b(data, digest_size=6).hexdigest()
    return f"{data[:_LONGEST].decode('utf-8', 'ignore')}-{digest}"


def save_overlay(result: Result, folder: Path, name: str, scale: Scale) -> str | None:
    """Write an image's heat map; return None, or why it could not be written.

    Raises:
        OSError: The disk is full: every other one would fail too.
    """
    return written(folder / name, f"heat map '{name}'", lambda path: result.save(path, scale))


def written(path: Path, what: str, write: Callable[[Path], object]) -> str | None:
    """Write a file of an image; return None, or why it could not be written, and then nothing of it is left.

    Raises:
        OSError: The disk is full: every other one would fail too.
    """
    try:
        write(path)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(full_disk(path)) from error
        return f"Cannot write the {what}: {error.strerror or error}."
    except ValueError as error:
        return f"Cannot write the {what}: {error}."
    return None
