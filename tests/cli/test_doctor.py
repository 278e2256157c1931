import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from zsad import __version__
from zsad.cli.doctor import diagnose, main
from zsad.clip.loading import BACKBONES
from zsad.methods import list_methods


def test_json_is_the_diagnosis(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(json.dumps(diagnose()))
    assert facts["zsad"] == __version__
    assert facts["packages"]["torch"] == version("torch")
    assert list(facts["weights"]) == list(BACKBONES)
    assert list(facts["methods"]) == list_methods()
    assert len(facts["devices"]) == 1 + torch.cuda.device_count() + torch.backends.mps.is_available()


def test_embedded_weights_are_there_and_need_no_network() -> None:
    mini = diagnose()["weights"]["zsad-mini"]
    assert mini["cached"]
    assert Path(mini["path"]).stat().st_size == pytest.approx(mini["megabytes"] * 1e6, abs=1e5)
    assert 0 < mini["megabytes"] <= 8


def test_tables_name_every_backbone_and_method(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name in (*BACKBONES, *list_methods(), "torch", "cpu", "HF_HUB_OFFLINE is set"):
        assert name in shown
    assert "…" not in shown
