"""What CONTRIBUTING says gives a working method, in one file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zsad.cli.main import main
from zsad.methods import list_methods

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> str:
    own = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src")])}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_contributing_followed_literally_gives_a_working_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    command = re.search(r"^zsad (new method (\w+)) --out src/zsad/methods --tests tests/methods$", text, re.M)
    assert command
    monkeypatch.chdir(tmp_path)
    assert main(command[1].split()) == 0
    name = command[2]
    module = name.lower()
    assert f"{module}.py" in capsys.readouterr().out
    run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{module}.py")
    # the steps that it lists: one import, one line in the registry, and every door knows the method
    (line,) = re.findall(r'^METHODS\["(\w+)"\] = (\w+)$', text, re.M)
    assert line == (module, name)
    code = (
        f"from {module} import {name}; import zsad.methods; zsad.methods.METHODS[{module!r}] = {name}\n"
        "from zsad.cli.main import main\n"
        f"assert main(['benchmark', '--methods', {module!r}, '--data', 'Synthetic:images=40,classes=[cork]',\n"
        "             '--backbone', 'zsad-mini', '--device', 'cpu', '--mode', 'exact', '--out', 'results']) == 0"
    )
    run(tmp_path, "-c", code)
    assert len(list((tmp_path / "results" / "cells" / module).glob("*/*.json"))) == 1


def test_it_writes_over_nothing_and_refuses_what_is_no_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "method", "Mine"]) == 0
    before = (tmp_path / "mine.py").read_text(encoding="utf-8")
    assert main(["new", "method", "Mine"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine.py").read_text(encoding="utf-8") == before
    assert main(["new", "method", "2nd"]) == 2
    assert "cannot name a class" in capsys.readouterr().err


def test_the_template_is_in_the_projects_style(tmp_path: Path) -> None:
    out = tmp_path / "src" / "zsad" / "methods"
    assert main(["new", "method", "Mine", "--out", str(out), "--tests", str(tmp_path)]) == 0
    files = [str(out / "mine.py"), str(tmp_path / "test_mine.py")]
    config = ["--config", str(ROOT / "pyproject.toml")]
    subprocess.run([sys.executable, "-m", "ruff", "check", *config, "--ignore", "D,I001", *files], check=True)
    assert "from zsad.methods.mine import Mine" in Path(files[1]).read_text(encoding="utf-8")
    assert "mine" not in list_methods()
