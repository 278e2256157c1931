"""Messages name the options of the door in use."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path

import pytest
from PIL import Image

import zsad
from zsad.cli import benchmark, evaluate, words
from zsad.cli import main as cli
from zsad.datamodules import Folder
from zsad.methods import VAND
from zsad.methods.restoring import constructor_options
from zsad.metrics.notices import WideBoundWarning, warn_wide
from zsad.synthetic import generate

DOORS = [(door, python, option) for door, said in words._DOORS.items() for python, option in said.items()]


def texts() -> set[str]:
    """Every string of the library's code, those of several lines as one."""
    found = set()
    for path in Path(zsad.__file__).parent.rglob("*.py"):
        if path.name != "words.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return found


def test_every_phrase_is_one_that_the_library_says() -> None:
    known = texts()
    assert not {python for _, python, _ in DOORS if not any(python in text for text in known)}


def test_every_option_is_one_that_the_door_has() -> None:
    parsers = {"benchmark": benchmark.parser(), "check": benchmark.parser(), "evaluate": evaluate.parser()}
    for door, _, option in DOORS:
        for group, name in re.findall(r"--(model|data)\.(\w+)", option):
            assert name in constructor_options({"model": VAND, "data": Folder}[group])
        for flag in re.findall(r"(--[a-z-]+)(?![\w.-])", option):
            assert flag in parsers[door]._option_string_actions
        for name in re.findall(r"NAME(?:=DIR)?:(\w+)", option):
            assert name in (*constructor_options(VAND), *constructor_options(Folder))


def test_a_model_that_is_tested_on_what_it_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        folder = tmp_path / "data" / "coin" / "test" / ("bad" if number % 2 else "good")
        folder.mkdir(parents=True, exist_ok=True)
        image = generate("coin", "hole" if number % 2 else "", seed=number).image
        Image.fromarray(image).save(folder / f"{number}.png")
    common = ["--model", "CoOp", "--model.backbone=zsad-mini", "--data", "Folder", f"--data.root={tmp_path / 'data'}"]
    common += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert cli.main(["fit", *common, "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]) == 0
    [checkpoint] = tmp_path.rglob("*.ckpt")
    assert cli.main(["test", *common, f"--ckpt_path={checkpoint}"]) == 2
    shown = capsys.readouterr().err
    option = re.search(r"--(?:model|data)\.allow_same\w*=true", shown)
    assert option is not None, shown
    assert "allow_same=True" not in shown
    assert cli.main(["test", *common, f"--ckpt_path={checkpoint}", option[0]]) == 0


def test_a_warning_is_shown_with_the_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(arguments: object) -> int:
        with pytest.warns(WideBoundWarning) as caught:
            warn_wide("aupro", 0.1)
        print(warnings.formatwarning(caught[0].message, WideBoundWarning, "x.py", 1))
        return 0

    usual = warnings.formatwarning
    monkeypatch.setattr(evaluate, "main", main)
    assert cli.main(["evaluate"]) == 0
    assert "declare --score-range LOW HIGH or take --mode exact." in capsys.readouterr().out
    assert warnings.formatwarning is usual
