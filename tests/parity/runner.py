"""Runs the cases of a fixture folder through the library's public code; one module per method, nothing per case."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.parity.outcome import Outcome

Load = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class CaseReport:
    """What came out of one case."""

    name: str
    outcomes: list[Outcome]
    missing: list[str]
    """Outputs that must be reproduced but were not computed."""

    @property
    def passed(self) -> bool:
        """Whether everything that must be reproduced is within its tolerance."""
        return not self.missing and all(outcome.passed for outcome in self.outcomes)


def read_cases(folder: Path) -> dict[str, Any]:
    """The parsed ``cases.json`` of a folder."""
    path = folder / "cases.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no cases.json.")
    cases: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return cases


def loader(folder: Path) -> Load:
    """A function that reads a file of the folder once: safetensors as tensors, JSON as its value."""
    read: dict[str, dict[str, Any]] = {}

    def load(name: str) -> dict[str, Any]:
        if name not in read:
            path = folder / name
            read[name] = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else load_file(path)
        return read[name]

    return load


def run_folder(folder: Path, only: str | None = None) -> Iterator[CaseReport]:
    """Run all cases of a folder in their order, or the one of that name and those whose state it continues."""
    cases = read_cases(folder)
    method = cases["method"]
    try:
        module = importlib.import_module(f"tests.parity.kinds.{method}")
    except ModuleNotFoundError as error:
        raise ValueError(f"No parity adapter for method '{method}' ({folder}).") from error
    load, memory = loader(folder), {}  # type: tuple[Load, dict[str, Any]]
    for case in cases["cases"]:
        if only is not None and case["name"] != only and not _leads_to(cases["cases"], case["name"], only):
            continue
        outcomes = list(module.run_case(case, load, memory))
        computed = {outcome.name for outcome in outcomes}
        missing = [
            name
            for name, spec in case["outputs"].items()
            if name not in computed and not (spec.get("intermediate") or spec.get("optional"))
        ]
        yield CaseReport(case["name"], outcomes, missing)


def _leads_to(cases: list[dict[str, Any]], name: str, target: str) -> bool:
    """Whether ``target`` continues, directly or not, from the state that case ``name`` leaves behind."""
    after = {case["name"]: (case.get("sequence") or {}).get("after") for case in cases}
    step = after.get(target)
    while step is not None:
        if step == name:
            return True
        step = after.get(step)
    return False


def compare(name: str, got: Any, spec: dict[str, Any], expected: Any, note: str = "") -> Outcome:
    """An outcome with the tolerances of a ``cases.json`` entry."""
    at = spec.get("atol_at")
    return Outcome(
        name,
        got,
        expected,
        atol=spec["atol"],
        rtol=spec.get("rtol", 0.0),
        median_atol=spec.get("median_atol"),
        atol_at=None if at is None else {int(index): value for index, value in at.items()},
        norm_rtol=spec.get("norm_rtol"),
        intermediate=bool(spec.get("intermediate", False)),
        note=note,
    )
