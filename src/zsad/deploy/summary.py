"""What may be told of a model: no path of this machine, and of its card what a person needs."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from zsad.decision.card import Card
from zsad.deploy.served import Served
from zsad.images.overlay import colour_table

_PATH = re.compile(r"""(?<![\w.~-])(?<!:/)(?:[A-Za-z]:)?[\\/](?:[^\\/\n'"]+[\\/])+""")  # absolute, no address


def digest(meta: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for a model."""
    return hashlib.blake2b(json.dumps(meta, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def summary(model: Served) -> dict[str, Any]:
    """Return what a model is, its classes, its card and the colours of its heat maps."""
    return {
        "model": digest(model.meta),
        "meta": without_paths(model.meta),
        "classes": list(model.classes),
        "calibration": None if model.calibration is None else card_summary(model.calibration),
        "colours": colour_table().tobytes().hex(),
    }


def card_summary(card: Card) -> dict[str, Any]:
    """Return what a card promises, by class; scores and images of the calibration stay here."""
    return {
        "digest": card.digest,
        "pooled": card.pooled,
        "classes": {
            name: {
                "images": one.calibration.n,
                "rule": str(one.rule),
                "alpha": one.alpha,
                "threshold": one.threshold,
                "alarm_rate": one.rate[0],
                "pixel_threshold": None if one.regions is None else one.regions.pixel_threshold,
            }
            for name, one in card.classes.items()
        },
    }


def without_paths(value: Any) -> Any:
    """Return JSON in which absolute paths are cut to their last part."""
    if isinstance(value, Mapping):
        return {str(key): without_paths(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(one) for one in value]
    return _PATH.sub("", value) if isinstance(value, str) else value
