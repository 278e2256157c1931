"""``fit`` and ``test`` in several processes: the metrics of one, the launchers of clusters, and a process that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsad.cli import main as cli
from zsad.synthetic import generate

JOBS = Path(__file__).parents[2] / "docs" / "jobs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten images of two classes, which neither two nor three processes share evenly."""
    for number in range(10):
        name = "coin" if number % 3 else "gear"
        folder = tmp_path / "data" / name / "test" / ("bad" if number % 2 else "good")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generate(name, "hole" if number % 2 else "", seed=number).image).save(folder / f"{number}.png")
    return tmp_path / "data"


def arguments(data: Path, command: str, model: str) -> list[str]:
    return [command, "--model", model, "--model.backbone=zsad-mini", "--data=Folder", f"--data.root={data}", *QUIET]


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "ZSAD_CACHE": str(folder / "cache"), **more}


@pytest.mark.parametrize("metrics", ["exact", "binned"])
def test_metrics_of_three_processes_are_those_of_one(data: Path, tmp_path: Path, metrics: str) -> None:
    given = [*arguments(data, "test", "CLIP"), f"--model.metrics={metrics}", "--data.batch_size=1"]
    assert cli.main([*given, "--trainer.devices=1", f"--out={tmp_path / 'one'}"]) == 0
    several = ["--trainer.devices=3", "--trainer.strategy=ddp", f"--out={tmp_path / 'three'}"]
    command = [sys.executable, "-m", "zsad", *given, *several]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(tmp_path)
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / name / "result.json").read_text(encoding="utf-8")) for name in ("one", "three")]
    one, three = ({"mean": result["mean"], **result["per_class"]} for result in found)
    assert one.keys() == three.keys() == {"mean", "coin", "gear"}
    for name, values in one.items():
        assert values, name
        assert three[name] == (values if metrics == "binned" else pytest.approx(values, abs=1e-12))
    assert found[0]["images"] == found[1]["images"]


def test_maps_and_rows_of_two_processes_are_those_of_one(data: Path, tmp_path: Path) -> None:
    """Among them images that would share a name, one of which each process has."""
    good = data / "gear" / "test" / "good"
    for name in ("0.bmp", "0.webp", "0-1.png"):
        Image.open(good / "0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(good / name)
    given = [*arguments(data, "predict", "CLIP"), "--data.batch_size=1"]
    assert cli.main([*given, "--trainer.devices=1", f"--out={tmp_path / 'one'}"]) == 0
    command = [sys.executable, "-m", "zsad", *given, "--trainer.devices=2", f"--out={tmp_path / 'two'}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(tmp_path)
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    one, two = (
        sorted(path.relative_to(out) for path in out.rglob("*.*")) for out in (tmp_path / "one", tmp_path / "two")
    )
    assert two == one
    names = [path.name for path in one if path.parent.name == "good" and path.name.startswith("0")]
    assert names == ["0-1.npy", "0-2.npy", "0-3.npy", "0.npy"]
    rows = [
        [json.loads(line) for line in (tmp_path / out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        for out in ("one", "two")
    ]
    assert len({row["map"] for row in rows[0]}) == 13
    for first, second in zip(*rows, strict=True):
        assert second.pop("score") == pytest.approx(first.pop("score"), abs=1e-6)
        assert second == first
    for path in one:
        if path.suffix == ".npy":
            np.testing.assert_allclose(np.load(tmp_path / "two" / path), np.load(tmp_path / "one" / path), atol=1e-6)
    masks = tmp_path / "masks"
    for path in one:
        if path.suffix == ".npy" and "bad" in path.parts:
            mask = masks.joinpath(*path.parts[1:])
            mask.parent.mkdir(parents=True, exist_ok=True)
            np.save(mask, np.load(tmp_path / "one" / path) > 0.5)
    assert cli.main(["evaluate", "--maps", str(tmp_path / "two" / "maps"), "--masks", str(masks)]) == 0


def test_processes_that_keep_their_results_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(data, "test", "CLIP")
    assert cli.main([*given, "--trainer.devices=2", "--trainer.strategy=ddp_fork"]) == 2
    assert "ddp_fork leaves what was found in processes that end with the run" in capsys.readouterr().err


def test_torchrun_starts_the_processes(data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(JOBS / "torchrun.sh"), *arguments(data, "test", "CLIP"), f"--out={tmp_path / 'out'}"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(tmp_path, PROCESSES="2"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert len((tmp_path / "out" / "images.csv").read_text(encoding="utf-8").splitlines()) == 11
    assert {"coin", "gear"} <= result["per_class"].keys()


SRUN = f"""#!{sys.executable}
import os, subprocess, sys
command = sys.argv[2:]  # behind --kill-on-bad-exit
tasks = [
    subprocess.Popen(command, env={{**os.environ, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}})
    for rank in range(2)
]
sys.exit(max(abs(task.wait()) for task in tasks))
"""


def test_slurm_variables_decide_the_processes(data: Path, tmp_path: Path) -> None:
    """The job file is run as it is; srun is a stand-in that starts two tasks with the variables that SLURM gives."""
    (tmp_path / "srun").write_text(SRUN, encoding="utf-8")
    (tmp_path / "srun").chmod(0o755)
    slurm = {
        "SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0",
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000), "SLURM_JOB_NAME": "zsad", "SLURM_NODELIST": "127.0.0.1",
    }  # fmt: skip
    own = environment(
        tmp_path, **slurm, PATH=f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    done = subprocess.run(
        [str(JOBS / "slurm.sh"), *arguments(data, "test", "CLIP"), f"--out={tmp_path / 'out'}"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=own,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    assert len((tmp_path / "out" / "images.csv").read_text(encoding="utf-8").splitlines()) == 11


def test_a_process_that_dies_ends_all_and_the_fit_goes_on(data: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "zsad", *arguments(data, "fit", "CoOp"), "--trainer.devices=2", "--trainer.strategy=ddp",
        f"--trainer.default_root_dir={tmp_path / 'fit'}",
    ]  # fmt: skip
    first = subprocess.Popen(
        [*command, "--trainer.max_epochs=100000"], cwd=tmp_path, env=environment(tmp_path),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while first.poll() is None and not list((tmp_path / "fit").rglob("*.ckpt")):
            time.sleep(0.1)
        listed = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=False)
        others = [int(line) for line in listed.stdout.split()]
        assert others, "there is no second process"
        for other in others:
            os.kill(other, 9)
        assert first.wait() != 0  # the suite's own limit says how long is too long
    finally:
        first.kill()
        first.wait()
    kept = max((tmp_path / "fit").rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    epoch = torch.load(kept, weights_only=True)["epoch"]
    done = subprocess.run(
        [*command, f"--trainer.max_epochs={epoch + 2}", f"--ckpt_path={kept}"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = max((tmp_path / "fit").rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert torch.load(last, weights_only=True)["epoch"] == epoch + 1
