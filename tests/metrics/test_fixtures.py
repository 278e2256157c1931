"""The stored cases in both modes, through the adapter of the parity runner."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.parity.kinds.metrics import run_case

FOLDER = Path(__file__).parents[1] / "parity" / "fixtures" / "metrics"
CASES = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_every_value_is_within_its_tolerance_and_its_own_bound(case: dict[str, Any]) -> None:
    outcomes = list(run_case(case, lambda name: load_file(FOLDER / name)))
    assert {outcome.name for outcome in outcomes} >= set(case["outputs"])
    assert [outcome for outcome in outcomes if not outcome.passed] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "unit:other"}, "unknown kind 'unit:other'"),
        ({"options": {"colour": "red"}}, r"unknown options \['colour'\]"),
        ({"options": {"positive": "score > threshold"}}, "positive='score > threshold' is not implemented"),
        ({"options": {"modes": ["fast"]}}, r"unknown modes \['fast'\]"),
        ({"options": {"precision": "float16"}}, "the options say torch.float16"),
        ({"outputs": {"x": {"value": 1.0, "metric": "dice", "level": "pixel", "atol": 0}}}, "unknown metric 'dice'"),
        ({"outputs": {"x": {"value": 1.0, "metric": "ap", "level": "voxel", "atol": 0}}}, "unknown level 'voxel'"),
    ],
)
def test_the_adapter_refuses_what_it_does_not_know(change: dict[str, Any], message: str) -> None:
    case = {**CASES[0], **change, "options": {**CASES[0]["options"], **change.get("options", {})}}
    with pytest.raises(ValueError, match=message):
        list(run_case(case, lambda name: load_file(FOLDER / name)))
