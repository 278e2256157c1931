"""Lightning's commands as processes: two of them, as a cluster's user starts them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from zsad.synthetic import generate


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(6):
        folder = tmp_path / "data" / "coin" / "test" / ("bad" if number % 2 else "good")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generate("coin", "hole" if number % 2 else "", seed=number).image).save(
            folder / f"{number}.png"
        )
    return tmp_path / "data"


@pytest.mark.parametrize(("command", "model"), [("test", "CLIP"), ("validate", "CLIP"), ("fit", "CoOp")])
def test_two_processes(command: str, model: str, data: Path, tmp_path: Path) -> None:
    arguments = [
        command, "--model", model, "--model.backbone=zsad-mini", "--data", "Folder", "--data.root", str(data),
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu",
        "--trainer.devices=2", "--trainer.strategy=ddp",
    ]  # fmt: skip
    arguments += [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1"] if command == "fit" else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ZSAD_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    shown = []
    for extra in ([], ["--trainer.devices=1", "--trainer.strategy=auto"]):
        done = subprocess.run(
            [sys.executable, "-m", "zsad.cli.main", *arguments, *extra],
            capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=540,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        shown.append(done.stdout)
    if command == "fit":
        assert list(tmp_path.rglob("*.ckpt"))
        return
    two, one = (re.findall(r"coin.*|mean.*", text) for text in shown)
    assert two == one, "every image counts once, however many processes there are"
    assert two
