"""Every fixture, through the same code as ``python -m tests.parity FOLDER``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.parity.__main__ import main
from tests.parity.runner import read_cases, run_folder

FIXTURES = Path(__file__).parent / "fixtures"
FOLDERS = sorted(folder for folder in FIXTURES.iterdir() if (folder / "cases.json").is_file())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_fixture(folder: Path) -> None:
    reports = list(run_folder(folder))
    assert [report.name for report in reports] == [case["name"] for case in read_cases(folder)["cases"]]
    failures = [
        f"{report.name}: {outcome.name} differs by {outcome.difference:.3g} (atol {outcome.atol:g})"
        for report in reports
        for outcome in report.outcomes
        if not outcome.passed
    ]
    failures += [f"{report.name}: {name} was not computed" for report in reports for name in report.missing]
    assert not failures, "\n".join(failures)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with one small case that may be spoilt."""
    folder = tmp_path / "clip_baselines"
    folder.mkdir()
    cases = read_cases(FIXTURES / "clip_baselines")
    cases["cases"] = cases["cases"][:1]
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    shutil.copy(FIXTURES / "clip_baselines" / cases["cases"][0]["file"], folder)
    return folder


def test_a_changed_number_is_found(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(copy), "--json"]) == 0
    path = copy / "clip.safetensors"
    stored = {key: value.clone() for key, value in load_file(path).items()}
    stored["map.bottle"][1, 5, 7] += 1e-4
    save_file(stored, path)
    capsys.readouterr()
    assert main([str(copy), "--json"]) == 1
    failed = [row["tensor"] for row in json.loads(capsys.readouterr().out)["rows"] if not row["passed"]]
    assert failed == ["map.bottle"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("kind", "dance", "unknown kind 'dance'"), ("method", "nothing", "No parity adapter for method 'nothing'")],
)
def test_unknown_kind_and_method_fail(
    key: str, value: str, message: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = read_cases(copy)
    (cases if key == "method" else cases["cases"][0])[key] = value
    (copy / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    assert main([str(copy)]) == 1
    assert message in " ".join(capsys.readouterr().out.split())


def test_folder_without_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "holds no cases.json" in " ".join(capsys.readouterr().out.split())
