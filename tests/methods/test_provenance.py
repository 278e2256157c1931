"""What a model was trained on: one data set or several, in new files and in old ones."""

from __future__ import annotations

from typing import Any

import pytest

from zsad.benchmark.results import _data_names
from zsad.clip import Clip
from zsad.methods import AnomalyCLIP
from zsad.methods.provenance import as_data_sets, describe_training, identity, overlap


class Data:
    """The part of a data module that matters here."""

    def __init__(self, facts: object = "known", **state: Any) -> None:
        self.facts = facts
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state


MVTEC: dict[str, Any] = {"name": "mvtec_ad", "root": "/mvtec", "classes": None}
COLON: dict[str, Any] = {"name": "cvc_colondb", "root": "/colon", "classes": None}


def test_older_checkpoints_hold_one_dictionary() -> None:
    assert as_data_sets({"name": "visa", "epochs": 15}) == [{"name": "visa", "epochs": 15}]
    assert as_data_sets({}) == as_data_sets([]) == as_data_sets(None) == []
    assert as_data_sets([MVTEC, COLON]) == [MVTEC, COLON]


def test_an_old_checkpoint_is_read_into_a_model(tiny: Clip) -> None:
    made, read = AnomalyCLIP(tiny), AnomalyCLIP(tiny)
    checkpoint: dict[str, Any] = {"state_dict": made.state_dict()}
    made.on_save_checkpoint(checkpoint)
    checkpoint["zsad"]["trained_on"] = {"name": "visa", "images": 2162, "epochs": 15}
    read.on_load_checkpoint(checkpoint)
    assert read.trained_on == [{"name": "visa", "images": 2162, "epochs": 15}]
    assert describe_training(read.trained_on) == "visa (2162 images, 15 epochs)"


def test_joined_data_are_several_sets() -> None:
    joined = Data(name="mvtec_ad+cvc_colondb", parts=[MVTEC, {**COLON, "classes": ("polyp",)}])
    found = identity(joined)
    assert found == [MVTEC, {**COLON, "classes": ["polyp"]}]
    assert identity(Data(**MVTEC)) == [MVTEC]
    assert describe_training([{**one, "images": 5} for one in found]) == (
        "mvtec_ad (5 images) and cvc_colondb (classes polyp, 5 images)"
    )
    assert _data_names(found) == "mvtec_ad+cvc_colondb"
    assert _data_names(MVTEC) == "mvtec_ad"


@pytest.mark.parametrize("tested", [MVTEC, COLON, {**COLON, "root": "/a/copy"}])
def test_a_test_on_either_set_is_an_overlap(tested: dict[str, Any]) -> None:
    assert overlap([MVTEC, COLON], Data(**tested)) == tested["name"]


def test_other_sets_other_classes_and_other_folders_are_none() -> None:
    assert overlap([MVTEC, COLON], Data(name="visa", root="/mvtec", classes=None)) is None
    assert overlap([{**MVTEC, "classes": ["screw"]}], Data(**{**MVTEC, "classes": ("tile",)})) is None
    assert overlap([{**MVTEC, "classes": ["screw"]}], Data(**{**MVTEC, "classes": ("tile", "screw")})) == "mvtec_ad"
    mine = {"name": "folder", "root": "/mine", "classes": None}
    assert overlap([mine], Data(None, **{**mine, "root": "/yours"})) is None
    assert overlap([COLON, mine], Data(None, **mine)) == "folder"
