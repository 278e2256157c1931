"""A driver that is killed, a machine that goes: finished blocks stay, the rest is done, each image has one row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from zsad.inference.rows import Row
from zsad.scale import collect

IMAGES, BLOCK = 60, 6
NICE = {**os.environ, "RAY_worker_niceness": "0"}  # 15 of Ray's own starves on a machine that is busy


@pytest.fixture(scope="module")
def images(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of many names of a few pictures."""
    folder = tmp_path_factory.mktemp("many")
    few = [path for path in sorted(pictures.glob("*.png")) if path.name != "07b.png"]
    for number in range(IMAGES):
        os.link(few[number % len(few)], folder / f"{number:04d}.png")
    path = folder / "list.csv"
    path.write_text("path\n" + "".join(f"{number:04d}.png\n" for number in range(IMAGES)), encoding="utf-8")
    return path


def rows(out: Path) -> list[Row]:
    assert collect(out, page=False) == IMAGES
    lines = (out / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    found = [Row.read(line) for line in lines]
    assert [row.path[-8:] for row in found] == [f"{number:04d}.png" for number in range(IMAGES)]
    assert all(row.error is None for row in found)
    return found


def test_a_killed_driver_goes_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "zsad.cli.main", "score", os.fspath(images), "--out", os.fspath(out), "--engine=ray",
        "--workers=1", f"--block={BLOCK}", "--method=winclip", "--backbone=zsad-mini", "--class-name=coin",
        "--device=cpu", "--batch-size=3", "--overlay-size=32", "--scale=fixed",
    ]  # fmt: skip
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=NICE)
    committed = lambda: [path for path in (out / "checkpoint").glob("*.parquet") if "pending" not in path.name]  # noqa: E731
    try:
        while first.poll() is None and len(committed()) < 5:  # before, what writes may still be starting
            time.sleep(0.02)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    durable = sum(parquet.read_metadata(path).num_rows for path in committed())
    scored = len(list(out.glob("overlays/**/*.jpg")))
    assert 5 * BLOCK <= durable < IMAGES
    assert scored - durable <= 2 * BLOCK, "what waits to be written, and what is being scored"
    kept = {path: path.stat().st_mtime_ns for path in committed()}

    done = subprocess.run(command, capture_output=True, text=True, check=False, env=NICE)
    assert done.returncode == 0, done.stderr
    assert f"{IMAGES} rows in" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    rows(out)


def test_a_machine_that_goes_takes_nothing_with_it(images: Path, tmp_path: Path) -> None:
    program = Path(__file__).with_name("two_nodes.py")
    done = subprocess.run(
        [sys.executable, program, images, tmp_path / "out"], capture_output=True, text=True, check=False, env=NICE
    )
    assert done.returncode == 0, done.stderr
    (answer,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray may print lines of its own
    said = json.loads(answer)
    assert said["gone"]
    assert said["cpus"] > 0, "the machine had no part in the job"
    assert (said["rows"], said["errors"]) == (IMAGES, 0)
    rows(tmp_path / "out")
