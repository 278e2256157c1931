"""The rows of a run get the labels of a card; no image is scored again."""

from collections.abc import Mapping
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.decision import Card, CardError, Region
from zsad.decision.entry import RegionRule
from zsad.decision.regions import calibrated_regions
from zsad.images.maps import read_map
from zsad.images.where import told
from zsad.inference.enlarging import enlarged
from zsad.inference.rows import Row


def card_settings(card: Card, class_name: str | None) -> dict[str, Any]:
    """Return what ``settings.json`` keeps of a card: its hash, and the rule that its regions follow."""
    if class_name is None and len(card.classes) > 1:
        return {"digest": card.digest, "regions": {name: _rule_of(card, name) for name in card.classes}}
    return {"digest": card.digest, "regions": _rule_of(card, class_name)}


def _rule_of(card: Card, class_name: str | None) -> dict[str, Any] | None:
    rule = card.entry(class_name).regions
    return None if rule is None else {"pixel_threshold": rule.pixel_threshold, "min_area": rule.min_area}


def page_settings(card: Card | None, mm_per_pixel: float | None = None) -> dict[str, Any]:
    """Return what ``index.html`` shows beside the rows: thresholds by class ("" is any), and the length of a pixel."""
    if card is None:
        return {"thresholds": {}, "mm_per_pixel": mm_per_pixel}
    found = {name: entry.threshold for name, entry in card.classes.items()}
    lengths = {entry.regions.mm_per_pixel for entry in card.classes.values() if entry.regions is not None}
    own = next(iter(lengths)) if len(lengths) == 1 else None
    return {
        "thresholds": dict.fromkeys([""], next(iter(found.values()))) if card.pooled else found,
        "mm_per_pixel": mm_per_pixel or own,
    }


class ByCard:
    """Gives rows the labels, p-values and regions of a card; counts the images that end without.

    Args:
        card: Of the run's model.
        folder: Of the run, where raw maps may lie.
        settings: Of the run.

    Raises:
        CardError: The run was scored by another model, or the card lacks its class.
    """

    def __init__(self, card: Card, folder: Path, settings: Mapping[str, Any]) -> None:
        card.require({key: settings[key] for key in card.model if key in settings}, settings.get("protocol"))
        self.card, self.folder = card, folder
        self.class_name = settings.get("class_name")
        self.without = 0
        self.settings = {
            "threshold": None,
            "calibration": card_settings(card, self.class_name),
            "page": page_settings(card, (settings.get("page") or {}).get("mm_per_pixel")),
        }
        self._before = (settings.get("calibration") or {}).get("regions")
        self._several = isinstance(self._before, dict) and "pixel_threshold" not in self._before

    def __call__(self, row: Row) -> Row:
        """Return the row with what the card says of it."""
        if row.score is None:
            return changed(row, label=None, p_value=None, p_upper=None, alarm_rate=None)
        name = row.class_name or self.class_name
        entry = self.card.entry(name)
        if entry.where != row.where:
            raise CardError(
                f"The card of '{name}' was made looking at {told(entry.where)}, '{row.path}' was looked at in "
                f"{told(row.where)}: score again with what the card was made with."
            )
        before = (self._before or {}).get(name) if self._several else self._before
        regions, number = self._regions(row, entry.regions, before)
        decision = entry.decide(row.score, number or 0)
        return changed(
            row, label=decision.label, p_value=decision.p_value, p_upper=decision.p_upper,
            alarm_rate=decision.alarm_rate, regions=regions, n_regions=number,
        )  # fmt: skip

    def _regions(self, row: Row, rule: RegionRule | None, before: Any) -> tuple[list[Any] | None, int | None]:
        if rule is None:
            self.without += row.n_regions is not None
            return None, None
        if before == {"pixel_threshold": rule.pixel_threshold, "min_area": rule.min_area}:
            kept = [Region.from_json(one) for one in row.regions or []]
            found = [changed(one, p_value=rule.p_value(one.max, one.area)).to_json() for one in kept]
            return found or None, row.n_regions
        anomaly_map = map_of(row, self.folder)
        if anomaly_map is None:
            self.without += 1
            return None, None
        fresh, number = calibrated_regions(anomaly_map, rule)
        return [one.to_json() for one in fresh] or None, number


def map_of(row: Row, folder: Path) -> NDArray[np.float32] | None:
    """Return the raw map of a row at the size of the picture, (height, width); None if the run kept none.

    Raises:
        ImageError: The file of the map cannot be read.
    """
    path = None if row.map is None else folder / row.map
    if path is None or not path.is_file() or row.width is None or row.height is None:
        return None
    return enlarged(read_map(path).astype(np.float32, copy=False), (row.height, row.width))
