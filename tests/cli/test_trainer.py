"""Lightning's commands as processes: two of them, as a cluster's user starts them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from zsad.cli import main as cli
from zsad.datamodules.dataset import DataWarning
from zsad.synthetic import generate


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(6):
        scene = generate("coin", "hole" if number % 2 else "", seed=number)
        path = tmp_path / "data" / "coin" / "test" / ("bad" if number % 2 else "good") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(path)
        if number % 2:
            mask = tmp_path / "data" / "coin" / "ground_truth" / "bad" / f"{number}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.mask).save(mask)
    return tmp_path / "data"


@pytest.mark.parametrize(("command", "model"), [("test", "CLIP"), ("validate", "CLIP"), ("fit", "CoOp")])
def test_two_processes(command: str, model: str, data: Path, tmp_path: Path) -> None:
    arguments = [
        command, "--model", model, "--model.backbone=zsad-mini", "--data", "Folder", "--data.root", str(data),
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu",
        "--trainer.devices=2", "--trainer.strategy=ddp",
    ]  # fmt: skip
    arguments += [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1"] if command == "fit" else []
    tables, pictures = [], []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ZSAD_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    shown = []
    arguments += [f"--out={tmp_path / 'out'}"] if command == "test" else []
    for extra in ([], ["--trainer.devices=1", "--trainer.strategy=auto"]):
        done = subprocess.run(
            [sys.executable, "-m", "zsad.cli.main", *arguments, *extra],
            capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=540,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        shown.append(done.stdout)
        if command == "test":
            tables.append((tmp_path / "out" / "images.csv").read_text(encoding="utf-8"))
            assert json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["images"]
            pictures.append({path.name: Image.open(path).convert("RGB") for path in tmp_path.glob("out/pictures/*")})
            shutil.rmtree(tmp_path / "out")
    if command == "fit":
        assert list(tmp_path.rglob("*.ckpt"))
        return
    two, one = (re.findall(r"coin.*|mean.*", text) for text in shown)
    if command == "test":
        rows, alone = ([line.rpartition(",") for line in table.splitlines()] for table in tables)
        assert [row[0] for row in rows] == [row[0] for row in alone]
        assert [float(row[2]) for row in rows[1:]] == pytest.approx([float(row[2]) for row in alone[1:]], abs=1e-5)
        assert len(rows) == 7
        assert {name.rpartition("-")[2] for name in pictures[0]} == {"best.jpg", "median.jpg", "worst.jpg"}
        assert pictures[0].keys() == pictures[1].keys()
        for name, picture in pictures[0].items():
            difference = np.abs(np.asarray(picture, float) - np.asarray(pictures[1][name], float))
            assert difference.mean() < 1, "images of both processes were looked at"
    assert two == one, "every image counts once, however many processes there are"
    assert two


QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--model", "CoOp", "--model.sgima=4"], "CoOp has no option '--model.sgima'. Nearest: '--model.sigma'"),
        (["--model", "ANVL"], "Unknown method 'ANVL'. Did you mean 'anovl'"),
        (
            ["--model", "CLIP", "--trainer.acelerator=cpu"],
            "The Trainer has no option '--trainer.acelerator'. Nearest: '--trainer.accelerator'",
        ),
        (["--model", "CLIP", "--chkpt_path=x"], "The command has no option '--chkpt_path'. Nearest: '--ckpt_path'"),
        (["--model", "CLIP", "--data.rot=x"], "Folder has no option '--data.rot'. Nearest: '--data.root'"),
        (["--model", "CLIP", "--model.metrics=exakt"], "Got value: exakt"),
        (["--model", "CLIP", "--model.backbone=ViT-B-32/openai"], "'ViT-B-32' computes with gelu"),
        (["--model", "CLIP", "--model.backbone=ViT-B-32/no/such.pt"], "neither a file nor a pretrained tag"),
    ],
)
def test_a_mistake_is_one_line(
    mistake: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = [] if any("backbone" in part for part in mistake) else ["--model.backbone=zsad-mini"]
    assert cli.main(["test", *mistake, *backbone, "--data", "Folder", "--data.root", str(data), *QUIET]) == 2
    shown = capsys.readouterr()
    line = shown.err.partition("zsad: error: ")[2].strip()
    assert message in line
    assert len(line.splitlines()) == 1
    assert "usage" not in shown.err + shown.out
    assert "Namespace" not in shown.err


def test_predict_reads_with_a_window_and_its_rows_say_what_is_doubtful(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "data" / "a.png")
    arguments = ["predict", "--model", "CLIP", "--model.backbone=zsad-mini", "--data", "Folder", *QUIET]
    arguments += ["--data.root", str(tmp_path / "data"), "--data.layout=plain", "--out", str(tmp_path / "out")]
    rows = []
    with pytest.warns(DataWarning, match="a window of 0,4095 would fit"):
        assert cli.main(arguments) == 0
    rows.append(json.loads((tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8")))
    assert cli.main([*arguments, "--data.window=[0,4095]"]) == 0
    rows.append(json.loads((tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8")))
    assert "a window of 0,4095 would fit" in rows[0]["warning"]
    assert rows[1]["warning"] is None
    assert rows[0]["score"] != rows[1]["score"]


def test_a_test_writes_its_result(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["test", "--model", "CLIP", "--model.backbone=zsad-mini", "--data", "Folder", "--data.root", str(data)]
    assert cli.main([*arguments, *QUIET]) == 0
    shown = capsys.readouterr()
    assert "Tip:" not in shown.err
    assert "test/image_auroc" not in shown.out, "raw metric rows"
    assert not (tmp_path / "zsad-predictions").exists()
    assert cli.main([*arguments, *QUIET, "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    with (tmp_path / "out" / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    labels, scores = [int(row["label"]) for row in rows], [float(row["score"]) for row in rows]
    assert result["mean"]["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert {"versions", "git", "protocol", "hyper_parameters", "backbone", "device", "counts"} <= set(result)
