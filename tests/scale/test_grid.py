"""The benchmark on Ray: the files of its cells are those of one machine, but for when and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zsad.cli import main as cli


def cells(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[path.relative_to(folder).as_posix()] = content["metrics"], content["images"]
    return found


def test_the_same_table_bit_for_bit(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker's: sums of several threads may differ in the last bit
    grid = ["--methods", "clip", "maskclip", "--data", "Synthetic:classes=[gear],images=60", "--backbone=zsad-mini"]
    assert cli.main(["benchmark", *grid, "--device=cpu", "--out=one"]) == 0
    torch.set_num_threads(threads)
    assert cli.main(["benchmark", *grid, "--device=cpu", "--out=many", "--engine=ray", "--workers=2"]) == 0
    assert cells(Path("many")) == cells(Path("one"))
    assert len(cells(Path("one"))) == 2
    capsys.readouterr()
    tables = []
    for folder in ("one", "many"):
        assert cli.main(["report", folder, "--resamples", "10", "--json"]) == 0
        tables.append(json.loads(capsys.readouterr().out)["rows"])
    assert tables[0] == tables[1]
    before = {path: path.stat().st_mtime_ns for path in Path("many").rglob("*.json")}
    assert cli.main(["benchmark", *grid, "--device=cpu", "--out=many", "--engine=ray"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert cli.main(["benchmark", *grid, "--out=many", "--workers=2"]) == 2
    assert "--workers is about --engine ray" in capsys.readouterr().err
    assert cli.main(["benchmark", *grid, "--out=many", "--engine=ray", "--jobs=2"]) == 2
    assert "give --workers 2 instead" in capsys.readouterr().err
