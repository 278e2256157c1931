"""Both stages of AA-CLIP through the command line, killed in each and started again."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from zsad.cli.main import main as zsad
from zsad.methods import AACLIP, Method

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "benchmarks" / "configs" / "aaclip"
SCRIPT = ROOT / "benchmarks" / "train_aaclip.py"
EPOCHS = 4


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_aaclip", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(out: Path) -> list[str]:
    trainer = ["accelerator=cpu", "logger=false", "enable_progress_bar=false", "enable_model_summary=false"]
    fit = [f"--trainer.{option}" for option in trainer] + ["--data.init_args.train_images=6"]
    size = ["--data", "Synthetic", "--backbone", "zsad-mini", "--epochs", str(EPOCHS), str(EPOCHS)]
    return ["--out", str(out), *size, *(f"--fit={argument}" for argument in fit)]


def kill_after(out: Path, sign: Path) -> None:
    """Start the training and kill the process as soon as a file has appeared."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not sign.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def learned(folder: Path, stage: str) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / stage / "last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on the arguments
def test_killed_in_each_stage_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert script().main(arguments(whole)) == 0
    for stage in ("text", "image"):
        kill_after(cut, cut / stage / "epoch=0.ckpt")
        assert not (cut / stage / f"epoch={EPOCHS - 1}.ckpt").exists()
    assert script().main(arguments(cut)) == 0
    for stage in ("text", "image"):
        expected, got = learned(whole, stage), learned(cut, stage)
        assert list(expected) == list(got)
        for name, value in expected.items():
            assert torch.equal(value, got[name]), f"{stage}: {name}"
    seen: list[Sequence[str]] = []
    monkeypatch.setattr(AACLIP, "on_test_end", lambda model: seen.append(model.prompts.templates))
    test = ["test", "--model=AACLIP", "--model.backbone=zsad-mini", '--model.templates=["there is a {}."]']
    test += ["--data=Synthetic"]
    test += ["--data.images=6", f"--ckpt_path={whole / 'image' / 'last.ckpt'}", "--trainer.accelerator=cpu"]
    assert zsad(test) == 0
    assert list(seen[0]) == ["there is a {}."]
    before = (whole / "image" / "last.ckpt").read_bytes()
    assert script().main(arguments(whole)) == 0  # nothing left to do
    assert (whole / "image" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_name_options_that_exist(path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Method, "model")
    model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
    options = parser.parse_object({"model": model}).model.init_args
    for name, value in model["init_args"].items():
        assert getattr(options, name) == value
    assert model["class_path"] == f"zsad.methods.{AACLIP.__name__}"
