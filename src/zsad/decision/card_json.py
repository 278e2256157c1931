"""Cards as JSON: written with nine digits, which is exact for float32, and read with every field checked."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from zsad.decision.conformal import KEPT, Calibration
from zsad.decision.entry import ClassEntry, RegionRule, short
from zsad.decision.rules import NAMES, Rule

FORMAT = "zsad-calibration/1"
_MOST_BYTES = 16 * 1024 * 1024


class CardError(ValueError):
    """A file is no calibration card, or a card does not belong to the model or class it is used with."""


def as_json(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a card as JSON has them."""
    return {
        "format": FORMAT,
        "created": card["created"],
        "zsad": card["zsad"],
        "model": dict(card["model"]),
        "protocol": dict(card["protocol"]),
        "classes": {name: _entry_json(entry) for name, entry in card["classes"].items()},
        "pooled": card["pooled"],
        "licence_notice": card["licence_notice"],
    }


def parse(path: Path) -> dict[str, Any]:
    """Return the fields of the card in a file.

    Raises:
        FileNotFoundError: There is no such file.
        CardError: It is too large, damaged, or of an unknown format; the message names the file and the field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No such calibration card: '{path}'.")
    if (size := os.path.getsize(path)) > _MOST_BYTES:
        raise CardError(f"'{path}' is no calibration card: it has {size} bytes, a card has at most {_MOST_BYTES}.")
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    try:
        return _fields(json.loads(data, parse_constant=_no_number, object_pairs_hook=_once))
    except CardError as error:
        raise CardError(f"'{path}' is no calibration card that this version reads: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CardError(f"'{path}' is no calibration card: it is not JSON ({error}).") from error


def from_json(content: Any) -> dict[str, Any]:
    """Return the fields of a card that lies in a larger file, as :func:`parse` does for a file of its own."""
    return _fields(content)


def _entry_json(entry: ClassEntry) -> dict[str, Any]:
    found: dict[str, Any] = {
        "n": entry.calibration.n,
        "scores": _numbers(entry.calibration),
        "image_digests": list(entry.image_digests),
        "groups": None if entry.groups is None else dict(entry.groups),
        "rule": {
            "name": entry.rule.name,
            "text": str(entry.rule),
            "alpha": entry.alpha,
            "delta": None if entry.delta is None else short(entry.delta),
            "k": entry.k,
        },
        "threshold": _exact(entry.threshold),
        "rate": {"mean": short(entry.rate[0]), "upper95": short(entry.rate[1])},
        "p_upper": [short(value) for value in entry.p_upper.tolist()],
        "anomalous": None if entry.anomalous is None else _plain(entry.anomalous),
        "regions": None,
    }
    if entry.where is not None:  # left out else: cards of whole pictures keep their digest
        found["where"] = dict(entry.where)
    if (regions := entry.regions) is not None:
        found["regions"] = {
            "kind": regions.kind,
            "alpha": regions.alpha,
            "k": regions.k,
            "pixel_threshold": _exact(regions.pixel_threshold),
            "min_area": regions.min_area,
            "n": regions.maxima.n,
            "per_image_max": _numbers(regions.maxima),
            "per_image_area": None if regions.areas is None else _numbers(regions.areas),
            "mm_per_pixel": regions.mm_per_pixel,
        }
    return found


def _fields(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise CardError("it holds no object.")
    if content.get("format") != FORMAT:
        raise CardError(f"its format is {_cut(content.get('format'))}, known is '{FORMAT}'.")
    classes = _get(content, "classes", dict)
    for name in ("method", "backbone"):
        _get(_get(content, "model", dict), name, str)
    found = {
        "model": content["model"],
        "protocol": _get(content, "protocol", dict),
        "classes": {name: _entry(entry, f"classes[{_cut(name)}]") for name, entry in classes.items()},
        "pooled": _get(content, "pooled", bool),
        "created": _get(content, "created", str),
        "zsad": _get(content, "zsad", str),
        "licence_notice": _get(content, "licence_notice", str, None),
    }
    if not classes or (found["pooled"] and len(classes) > 1):
        raise CardError(f"'classes' has {len(classes)} entries.")
    return found


def _entry(content: Any, place: str) -> ClassEntry:
    if not isinstance(content, dict):
        raise CardError(f"'{place}' is no object.")
    calibration = _calibration(content, "scores", _count(content, "n", place), place)
    n, rule, rate = calibration.n, _get(content, "rule", dict, place=place), _get(content, "rate", dict, place=place)
    if _get(rule, "name", str, place=place) not in NAMES:
        raise CardError(f"'{place}.rule.name' is {_cut(rule['name'])}, known are {', '.join(NAMES)}.")
    try:
        read = Rule.read(_get(rule, "text", str, place=place))
    except ValueError as error:
        raise CardError(f"'{place}.rule.text': {error}") from error
    k = None if rule.get("k") is None else _count(rule, "k", place, most=n)
    threshold = float(np.float32(_number(content, "threshold", place)))
    if read.name != rule["name"] or (k is None) != (read.name not in ("far", "any")):
        raise CardError(f"'{place}.rule' contradicts itself.")
    if k is not None and calibration.threshold(k) != threshold:
        raise CardError(f"'{place}.threshold' is {threshold:.9g}, its scores and k say {calibration.threshold(k):.9g}.")
    digests = _get(content, "image_digests", list, place=place)
    if not all(isinstance(one, str) and len(one) == 8 and set(one) <= set("0123456789abcdef") for one in digests):
        raise CardError(f"'{place}.image_digests' must have 8 hexadecimal digits each.")
    upper = np.asarray(_list_of_numbers(content, "p_upper", place))
    if len(upper) != len(calibration.scores) + 1 or ((upper <= 0) | (upper > 1)).any() or (np.diff(upper) > 0).any():
        raise CardError(f"'{place}.p_upper' must fall from 1 to above 0, with one value more than there are scores.")
    where = _get(content, "where", dict, None, place=place)
    if where is not None and (
        set(where) != {"roi", "ignore_mask"} or not all(isinstance(one, (str, type(None))) for one in where.values())
    ):
        raise CardError(f"'{place}.where' is {_cut(where)}, expected texts for 'roi' and 'ignore_mask'.")
    return ClassEntry(
        calibration, read, None if rule.get("delta") is None else _number(rule, "delta", place, 0, 1), k, threshold,
        (_share_or_none(rate, "mean", place), _share_or_none(rate, "upper95", place)), upper, tuple(digests),
        _get(content, "groups", dict, None, place=place), _get(content, "anomalous", dict, None, place=place),
        _regions(_get(content, "regions", dict, None, place=place), f"{place}.regions"), where,
    )  # fmt: skip


def _regions(content: Mapping[str, Any] | None, place: str) -> RegionRule | None:
    if content is None:
        return None
    n, kind = _count(content, "n", place), _get(content, "kind", str, place=place)
    if kind not in ("max", "area") or (kind == "area") != (content.get("per_image_area") is not None):
        raise CardError(f"'{place}.kind' is {_cut(kind)} and does not fit its lists.")
    return RegionRule(
        cast(Literal["max", "area"], kind),
        _number(content, "alpha", place, 0, 1),
        _count(content, "k", place, most=n),
        float(np.float32(_number(content, "pixel_threshold", place))),
        _count(content, "min_area", place, least=0, most=2**53),
        _calibration(content, "per_image_max", n, place),
        _calibration(content, "per_image_area", n, place) if kind == "area" else None,
        None if content.get("mm_per_pixel") is None else _number(content, "mm_per_pixel", place, 0),
    )


def _calibration(content: Mapping[str, Any], name: str, n: int, place: str) -> Calibration:
    values = np.asarray(_list_of_numbers(content, name, place), dtype=np.float64)
    with np.errstate(over="ignore"):
        scores = values.astype(np.float32)
    if len(scores) != min(n, KEPT) or not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
        raise CardError(f"'{place}.{name}' must hold {min(n, KEPT)} finite numbers in ascending order.")
    return Calibration(scores, n)


def _get(content: Mapping[str, Any], name: str, kind: type, *other: None, place: str = "") -> Any:
    value = content.get(name)
    if (value is None and other) or (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)):
        return value
    raise CardError(f"'{place + '.' if place else ''}{name}' is {_cut(value)}, expected {kind.__name__}.")


def _count(content: Mapping[str, Any], name: str, place: str, least: int = 1, most: int = 10**9) -> int:
    value = _get(content, name, int, place=place)
    if not least <= value <= most:
        raise CardError(f"'{place}.{name}' is {value}, expected {least} to {most}.")
    return int(value)


def _number(content: Mapping[str, Any], name: str, place: str, low: float = -math.inf, high: float = math.inf) -> float:
    value: Any = content.get(name)
    if not _is_number(value) or not low <= value <= high:
        raise CardError(f"'{place}.{name}' is {_cut(value)}, expected a number.")
    return float(value)


def _share_or_none(content: Mapping[str, Any], name: str, place: str) -> float | None:
    return None if content.get(name) is None else _number(content, name, f"{place}.rate", 0, 1)


def _list_of_numbers(content: Mapping[str, Any], name: str, place: str) -> list[float]:
    values = _get(content, name, list, place=place)
    if not all(map(_is_number, values)):
        raise CardError(f"'{place}.{name}' must hold numbers only.")
    return list(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _numbers(calibration: Calibration) -> list[float]:
    return [_exact(value) for value in calibration.scores.tolist()]


def _exact(value: float) -> float:
    return float(f"{np.float32(value):.9g}")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with six digits; NaN, which JSON has not, becomes null."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found[name] = _plain(value)
        else:
            found[name] = (short(value) if math.isfinite(value) else None) if isinstance(value, float) else value
    return found


def _no_number(text: str) -> Any:
    raise CardError(f"it holds {text}, which is no number.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise CardError(f"'{next(name for name in names if names.count(name) > 1)}' occurs twice.")
    return found


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
