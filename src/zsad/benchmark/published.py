"""Published numbers, each with its paper and table; nothing here was measured by zsad."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

Kind = Literal["paper", "log", "rerun"]


@dataclass(frozen=True)
class PublishedValue:
    """One printed number.

    Args:
        paper: Who printed it.
        table: In which table.
        kind: ``"paper"``, the authors' repository ``"log"``, or somebody else's ``"rerun"``.
        data: Key of the data set.
        method: Registry name, or a name of a method that zsad does not have.
        metric: As in results; in per cent.
        value: The number.
        std: Its deviation, if printed.
        copied: The paper took it from another paper.
        detail: Class, setting, shots: whatever makes it no plain mean of the method.
    """

    paper: str
    table: str
    kind: Kind
    data: str
    method: str
    metric: str
    value: float
    std: float | None
    copied: bool
    detail: Mapping[str, Any]

    @property
    def source(self) -> str:
        """Paper and table in a few words."""
        return (
            f"{self.paper.partition(' (')[0]}, table {self.table}"
            if self.kind == "paper"
            else f"{self.paper.partition(' (')[0]}, {self.table}"
        )


@cache
def published() -> tuple[PublishedValue, ...]:
    """Return every number of the packaged list."""
    tables = yaml.safe_load((files("zsad.benchmark") / "published.yaml").read_text(encoding="utf-8"))
    values = []
    for table in tables:
        for row in table["rows"]:
            detail = {key: row[key] for key in ("class", "setting", "shots") if key in row}
            deviations = row.get("std") or [None] * len(row["values"])
            for metric, value, std in zip(table["columns"], row["values"], deviations, strict=False):
                if value is not None:
                    values.append(
                        PublishedValue(
                            table["paper"],
                            table["table"],
                            table["kind"],
                            row["data"],
                            row["method"],
                            metric,
                            float(value),
                            std,
                            bool(row.get("copied", False)),
                            detail,
                        )
                    )
    return tuple(values)


def lookup(data: str, method: str, metric: str, kinds: tuple[Kind, ...] = ("paper",)) -> list[PublishedValue]:
    """Return the published means of a method on a data set, first the method's own paper's, copies last."""
    found = [
        one
        for one in published()
        if (one.data, one.method, one.metric) == (data, method, metric) and one.kind in kinds and not one.detail
    ]
    return sorted(found, key=lambda one: (one.copied, not one.paper.lower().replace("-", "").startswith(method)))
