"""Which model is meant where none is named, and what the methods cost."""

from __future__ import annotations

import argparse
from typing import get_args

import pytest

from zsad import load_model
from zsad.cli.main import main
from zsad.cli.model_options import COSTS, PRECISIONS, TRAINED, add_model_options, chosen_model
from zsad.clip.backbone import Precision
from zsad.methods import METHODS


def chosen(*arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    return chosen_model(parser.parse_args(arguments))


def test_a_first_look_is_quick() -> None:
    assert chosen()["name"] == "anovl"
    assert chosen()["views"] == "none"
    assert chosen("--option", "views=22")["views"] == 22
    assert "views" not in chosen("--method", "anovl")  # who names the method gets the published one
    model = load_model(backbone="zsad-mini", device="cpu")
    assert (type(model.method).__name__, model.method.hparams["views"]) == ("AnoVL", "none")
    assert load_model("anovl", "zsad-mini", device="cpu").method.hparams["views"] != "none"


def test_help_says_what_each_method_costs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    shown = capsys.readouterr().out
    assert list(COSTS) == list(METHODS)
    assert {name for name, kind in METHODS.items() if kind.learns()} == TRAINED
    assert get_args(Precision) == PRECISIONS
    for name, cost in COSTS.items():
        assert any(line.startswith(name) and line.endswith(cost) for line in shown.splitlines()), name
    assert max(map(len, shown.splitlines())) <= 112  # argparse's own lines keep to 80, sentences are not broken
