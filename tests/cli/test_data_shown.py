import json

import pytest

from zsad.cli.data_shown import data_list
from zsad.datamodules import DATAMODULES


def test_table_names_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_list() == 0
    out = capsys.readouterr().out
    assert {line.split()[0] for line in out.splitlines() if line.strip()} >= set(DATAMODULES) - {"folder", "synthetic"}


def test_json_has_all_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_list(as_json=True) == 0
    entries = {entry["key"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(entries) == set(DATAMODULES) - {"folder", "synthetic"}
    mvtec = entries["mvtec_ad"]
    assert mvtec["counts"]["*"] == [467, 1258]
    assert mvtec["counts"]["bottle"] == [20, 63]
    assert mvtec["license"] == "CC BY-NC-SA 4.0"
    assert entries["visa"]["download"]["url"].endswith("VisA_20220922.tar")
    for entry in entries.values():
        assert entry["license"]
        assert entry["obtain"]
        assert entry["trust"]
