"""What a client asked for, and the row that it gets."""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.deploy.refusals import Refusal
from zsad.images.overlay import Scale
from zsad.inference.result import Result
from zsad.inference.rows import Row

MapKind = Literal["none", "png", "npy", "levels", "overlay"]
SHOWN = 1024
"""Longer side of an overlay, in pixels."""

_NAMES = ("class_name", "map", "scale", "threshold", "regions")


@dataclass(frozen=True)
class Question:
    """How an image is to be judged, and what comes back besides its row.

    Args:
        class_name: One of the model's; None for its first.
        map: ``"png"``: 16-bit grey levels over the map's own range; ``"levels"``: the same, little-endian and bare;
            ``"npy"``: float32; ``"overlay"``: a picture. All but the last are of the model's size.
        scale: Of the overlay, see :func:`zsad.images.overlay.limits_of`.
        threshold: From which a score is labelled 1.
        regions: Whether the row has the regions of the calibration.
    """

    class_name: str | None = None
    map: MapKind = "none"
    scale: Scale = None
    threshold: float | None = None
    regions: bool = False

    @classmethod
    def read(cls, query: Mapping[str, str]) -> "Question":
        """Return the question of a query.

        Raises:
            Refusal: 400; a word or a number is not understood.
        """
        if unknown := sorted({*query} - {*_NAMES}):
            raise _bad(f"There is no '{unknown[0][:40]}' to ask for; there are {', '.join(_NAMES)}.")
        kind = query.get("map", "none")
        if kind not in get_args(MapKind):
            raise _bad(f"map is one of {', '.join(get_args(MapKind))}.")
        if (regions := query.get("regions", "0")) not in ("0", "1"):
            raise _bad("regions is 0 or 1.")
        threshold = None
        if "threshold" in query and (threshold := _number(query["threshold"])) is None:
            raise _bad("threshold is a finite number.")
        scale = _scale(query.get("scale", "fixed"))
        return cls(query.get("class_name") or None, cast(MapKind, kind), scale, threshold, regions == "1")


def row_of(result: Result, question: Question, name: str) -> dict[str, Any]:
    """Return the answer of an image: its row, and the map if it was asked for.

    Args:
        result: With the map at the model's size.
        question: What was asked.
        name: What the client calls the image.
    """
    row = json.loads(Row.of(result, path=name).line())
    if not question.regions:
        row.pop("regions", None)
    elif result.n_regions is not None:
        row.setdefault("regions", [])
    return {**row, "map": map_of(result, question)}


def map_of(result: Result, question: Question) -> dict[str, Any] | None:
    """Return the map as JSON has it, None if none was asked for."""
    if question.map == "none":
        return None
    values = result.anomaly_map
    low, high = float(values.min()), float(values.max())
    shape = (values.shape[1], values.shape[0]) if question.map != "overlay" else result.image.size
    data = picture_of(result, question) if question.map in ("png", "overlay") else _raw(values, question.map)
    return {
        "kind": question.map, "width": shape[0], "height": shape[1], "low": low, "high": high,
        "data": base64.b64encode(data).decode("ascii"),
    }  # fmt: skip


def picture_of(result: Result, question: Question) -> bytes:
    """Return the map or the overlay as a PNG file."""
    values = result.anomaly_map
    drawn = result.overlay(question.scale) if question.map == "overlay" else Image.fromarray(levels(values))
    file = BytesIO()
    drawn.save(file, "png")
    return file.getvalue()


def levels(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return a map in steps of 1/65535 of its own range; half precision would be too coarse near 1/2."""
    low = values.min()
    shares = (values - low).astype(np.float64) / (float(values.max() - low) or 1.0)
    return np.rint(65535 * shares).astype(np.uint16)


def _raw(values: NDArray[np.float32], kind: str) -> bytes:
    if kind == "levels":
        return levels(values).astype("<u2").tobytes()
    file = BytesIO()
    np.save(file, values)
    return file.getvalue()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _scale(text: str) -> Scale:
    if text in ("fixed", "image"):
        return "image" if text == "image" else None
    ends = [_number(part) for part in text.split(",")]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or not ends[0] < ends[1]:
        raise _bad("scale is 'fixed', 'image' or LOW,HIGH with LOW < HIGH.")
    return ends[0], ends[1]


def _bad(message: str) -> Refusal:
    return Refusal(400, "bad_query", message)
