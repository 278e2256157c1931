"""Results of something else, two runs at once, signals, names that break paths, and a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from sklearn.metrics import roc_auc_score

from zsad.benchmark.grid import Cell, DataSpec, MethodSpec, safe_name
from zsad.benchmark.identity import differences
from zsad.benchmark.results import load
from zsad.benchmark.run import Options, Runner
from zsad.cli import main as cli
from zsad.synthetic import generate
from zsad.weights.lock import LockedError, locked

COMMAND = [sys.executable, "-c", "import sys; from zsad.cli.main import main; sys.exit(main(sys.argv[1:]))"]


def _folder(root: Path, classes: tuple[str, ...] = ("coin",), seed: int = 0, swap: bool = False) -> Path:
    """A user's own data; with ``swap`` the pictures of the two labels change places."""
    for class_name in classes:
        for part in ("good", "bad"):
            (root / class_name / "test" / part).mkdir(parents=True, exist_ok=True)
            for number in range(2):
                defect = "" if (part == "good") != swap else "hole"
                picture = generate("coin", defect, seed=seed + number).image
                Image.fromarray(picture).save(root / class_name / "test" / part / f"{number}.png")
    return root


def _arguments(out: Path, *data: str, methods: Any = ("clip",), **options: Any) -> list[str]:
    given = {"--backbone": "zsad-mini", "--device": "cpu", "--mode": "exact"} | options
    flags = [text for name, value in given.items() for text in (name, str(value))]
    return ["benchmark", "--methods", *methods, "--data", *data, "--out", str(out), *flags]


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err.partition("zsad: error: ")[2].strip()
    assert "Traceback" not in shown
    assert len(shown.splitlines()) == 1
    return shown


# ---- results of something else


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data, and results of one cell."""
    folder = tmp_path_factory.mktemp("once")
    data = _folder(folder / "fa" / "x")
    assert cli.main(_arguments(folder / "out", f"Folder={data}")) == 0
    return data, folder / "out"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--backbone": "ViT-B-32/random"}, "run.backbone: 'zsad-mini' there, 'ViT-B-32/random' now"),
        ({"--mode": "binned"}, "run.mode: 'exact' there, 'binned' now"),
        ({"--precision": "bf16"}, "run.precision: '32' there, 'bf16' now"),
        ({"--batch-size": "3"}, "run.batch_size: 8 there, 3 now"),
        ({"--bootstrap": "9"}, "run.bootstrap: 0 there, 9 now"),
    ],
)
def test_a_cell_of_other_options_is_not_taken(
    changed: dict[str, str], message: str, once: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = once
    kept = {path: path.read_bytes() for path in out.glob("cells/*/*/*.json")}
    shown = _error(_arguments(out, f"Folder={data}", **changed), capsys)
    assert message in shown
    assert "--fresh to compute these cells again" in shown
    assert {path: path.read_bytes() for path in out.glob("cells/*/*/*.json")} == kept


def test_another_folder_of_the_same_name_is_not_taken(
    once: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, kept = once
    out = shutil.copytree(kept, tmp_path / "out")
    other = _folder(tmp_path / "fb" / "x", swap=True)
    shown = _error(_arguments(out, f"Folder={other}"), capsys)
    assert f"data.root: '{data.resolve()}' there, '{other.resolve()}' now" in shown
    assert cli.main([*_arguments(out, f"Folder={other}"), "--fresh"]) == 0
    [cell] = load(out)
    labels, scores = zip(*((label, score) for _, label, score in cell["images"]), strict=True)
    assert cell["metrics"]["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert all(str(other) in path for path, _, _ in cell["images"])


def test_long_values_are_told_apart_wherever_they_differ() -> None:
    for kept in ("/data/" + "a" * 150, "a" * 400 + "1" + "b" * 400, "1" + "a" * 600, "a" * 600 + "1"):
        (said,) = differences({"root": kept}, {"root": kept.replace("1", "2") + ("" if "1" in kept else "c")})
        there, here = said.removeprefix("root: ").removesuffix(" now").split(" there, ")
        assert there != here


def test_changed_files_of_the_same_folder_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _folder(tmp_path / "x")
    arguments = _arguments(tmp_path / "out", f"Folder={data}")
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 0
    # the same folder by another name is the same folder
    (tmp_path / "link").symlink_to(data)
    again = [argument.replace(f"Folder={data}", f"Folder={tmp_path}/out/../x") for argument in arguments]
    assert cli.main(again) == 0
    (data / "coin" / "test" / "good" / "1.png").rename(data / "coin" / "test" / "bad" / "7.png")
    assert "data: other images, labels or masks" in _error(arguments, capsys)


def test_trained_parameters_of_something_else_are_not_taken(tmp_path: Path) -> None:
    source = _folder(tmp_path / "source")
    options = Options(tmp_path / "out", "zsad-mini", train=[DataSpec.parse(f"Folder={source}")], epochs=1, device="cpu")
    cell = Cell(MethodSpec.parse("coop"), DataSpec.parse(f"Folder={_folder(tmp_path / 'x')}"), "coin", 0)
    keys = set()
    for method, epochs, seed in (("coop", 1, 0), ("coop:n_ctx=3", 1, 0), ("coop", 2, 0), ("coop", 1, 9)):
        _folder(source, classes=("coin", "cork")[: 1 + (seed > 0)], seed=seed)
        runner = Runner(Options(**{**vars(options), "epochs": epochs}))
        keys.add(runner.identities.training(MethodSpec.parse(method).at(0), options.train[0]))
        identity = runner.identities.of(cell)
        assert identity["run"]["epochs"] == epochs
    assert len(keys) == 4


def test_an_error_of_something_else_is_computed_again(tmp_path: Path) -> None:
    data = _folder(tmp_path / "x")
    arguments = _arguments(tmp_path / "out", f"Folder={data}", methods=("coop",))
    assert cli.main(arguments) == 1
    assert "auxiliary data" in load(tmp_path / "out")[0]["error"]
    source = _folder(tmp_path / "source", seed=4)
    assert cli.main([*arguments, "--train", f"Folder={source}", "--epochs", "1"]) == 0
    assert "error" not in load(tmp_path / "out")[0]


def test_two_things_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = _folder(tmp_path / "fa" / "x"), _folder(tmp_path / "fb" / "x")
    shown = _error(_arguments(tmp_path / "out", f"Folder={one}", f"Folder={two}"), capsys)
    assert "Two different things have the name 'clip' on 'x'" in shown


# ---- two at once


def test_a_second_benchmark_into_one_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = _folder(tmp_path / "x"), tmp_path / "out"
    out.mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from zsad.weights.lock import locked\n"
            "with locked(pathlib.Path(sys.argv[1]), 'zsad benchmark'): print('held', flush=True); sys.stdin.read()",
            str(out),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        shown = _error(_arguments(out, f"Folder={data}"), capsys)
        assert shown.startswith(f"Another zsad benchmark is writing to '{out}'")
        assert not (out / "cells").exists()
    finally:
        holder.kill()  # a lock ends with its process, however that ended
        holder.communicate()
    assert cli.main(_arguments(out, f"Folder={data}")) == 0


def test_two_benchmarks_at_once_leave_whole_results(tmp_path: Path) -> None:
    data, out = _folder(tmp_path / "x"), tmp_path / "out"
    arguments = [*COMMAND, *_arguments(out, f"Folder={data}")]
    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    shown = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 2]), shown  # one waited for the processor until the other had ended, or was refused
    assert all("Traceback" not in text for text in shown)
    assert len(load(out)) == 1
    with locked(out, "test"):
        pass


def test_the_lock_is_the_librarys(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "a", "x"),
        pytest.raises(LockedError, match="Another x is writing to"),
        locked(tmp_path / "a", "x"),
    ):
        pass
    with FileLock(tmp_path / "a" / ".zsad.lock"), pytest.raises(LockedError), locked(tmp_path / "a", "x"):
        pass


# ---- signals


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(one) for one in found.stdout.split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state.strip().startswith("Z") and bool(state.strip())


def _until(condition: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_workers_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    data = "Synthetic:images=4000,classes=[gear],train_images=8"
    arguments = _arguments(tmp_path / "out", data, methods=("clip", "maskclip"))
    heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # the tests may run where it is ignored
    parent = subprocess.Popen(
        [*COMMAND[:2], heard + COMMAND[2], *arguments, "--jobs", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers: list[int] = []
    try:
        assert _until(lambda: len(_children(parent.pid)) == 2 or parent.poll() is not None)
        workers = _children(parent.pid)
        assert len(workers) == 2
        os.kill(parent.pid, number)  # the parent alone, not its group
        shown = parent.communicate(timeout=120)[1]
        assert parent.returncode == (-9 if number == signal.SIGKILL else 130), shown
        assert _until(lambda: not any(map(_alive, workers)), 60), "a worker goes on without its parent"
    finally:
        for pid in (parent.pid, *workers):
            if _alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_an_ignored_hangup_stays_ignored() -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from zsad.cli.interrupt import signals_interrupt\n"
        "with signals_interrupt(): os.kill(os.getpid(), signal.SIGHUP)\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL; print('on')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "on\n"


# ---- names


@pytest.mark.parametrize("root", [".", "..", "./", "sub/.."])
def test_a_folder_given_by_dots_has_its_own_name(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder(tmp_path / "parts")
    (tmp_path / "parts" / "sub").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "parts" / ("sub" if root == ".." else ""))
    assert DataSpec.parse(f"Folder={root}").label == "parts"
    assert cli.main(_arguments(tmp_path / "out", f"Folder={root}")) == 0
    assert [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").glob("cells/*/*/*.json")] == [
        Path("cells/clip/parts/coin-s0.json")
    ]
    assert len(load(tmp_path / "out")) == 1


def test_long_and_odd_class_names_have_a_place(tmp_path: Path) -> None:
    names = ["a" * 250, "漆" * 80, "..", "coin"]
    root = tmp_path / "x"
    manifest = ["image,class,label"]
    _folder(root)
    for name in (*names[:3], "b" * 300):
        for label in (0, 1):
            manifest.append(f"coin/test/{'bad' if label else 'good'}/0.png,{name},{label}")
    cells = [
        Cell(MethodSpec("clip", "clip"), DataSpec.parse(f"Folder={root}"), name, 0) for name in (*names, "b" * 300)
    ]
    paths = {cell.path(tmp_path) for cell in cells}
    assert len(paths) == len(cells)
    for path in paths:
        assert len(path.name.encode()) < 200
        assert path.parent == tmp_path / "cells" / "clip" / "x"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert {safe_name(text) for text in (".", "..", "")} & {".", "..", ""} == set()
    assert len({safe_name(text) for text in (".", "..", "...", "")}) == 4


# ---- full disks


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 256 kB where this user may mount one, else a folder whose files cannot be brought to the disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        shutil.which("mount") is not None
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True, check=False
        ).returncode
    )
    if mounted:
        room = 4096 * (shutil.disk_usage(folder).free // 4096 - 4)  # folders take a page each
        (folder / "filler").write_bytes(b"x" * room)
    else:

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_with_path_and_space(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _folder(tmp_path / "x")
    (small_disk / "rest").write_bytes(b"x" * 4 * 4096)
    shown = _error(_arguments(small_disk / "out", f"Folder={data}"), capsys)
    assert f"'{small_disk}/out/" in shown
    assert "No space left on device" in shown
    assert "are free in" in shown
    assert not list(small_disk.rglob("cells/*/*/*"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fit_on_a_full_disk_leaves_no_half_checkpoint(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    data = _folder(tmp_path / "x")
    arguments = [
        "fit", "--model", "CoOp", "--model.backbone=zsad-mini", "--data", "Folder", "--data.root", str(data),
        "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        "--trainer.logger=false", f"--trainer.default_root_dir={small_disk}",
    ]  # fmt: skip
    shown = _error(arguments, capsys)
    assert ".ckpt': No space left on device; the file takes" in shown
    assert f"are free in '{small_disk}" in shown
    assert not list(small_disk.rglob("*.ckpt"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("when", ["at the start", "while training"])
def test_a_disk_that_a_logger_finds_full_is_one_error(
    when: str, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration that Lightning keeps is written at the start, its table of metrics later."""
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    data = _folder(tmp_path / "x")

    def fill(self: CSVLogger, *what: Any, **more: Any) -> None:
        (small_disk / "filler").unlink(missing_ok=True)
        if not small_disk.is_mount():
            raise OSError(28, "No space left on device")
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass

    if when == "at the start" and small_disk.is_mount():
        fill(CSVLogger(tmp_path))
    else:
        (small_disk / "filler").unlink(missing_ok=True)
        monkeypatch.setattr(CSVLogger, "log_hyperparams", fill)
    arguments = [
        "fit", "--model", "CoOp", "--model.backbone=zsad-mini", "--data", "Folder", "--data.root", str(data),
        "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        "--trainer.enable_checkpointing=false", "--trainer.log_every_n_steps=1",
        "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={small_disk}",
        f"--trainer.default_root_dir={small_disk}",
    ]  # fmt: skip
    shown = _error(arguments, capsys)
    assert f"Cannot write '{small_disk}" in shown
    assert "No space left on device" in shown
    assert f"are free in '{small_disk}" in shown


def test_results_are_json_that_others_read(once: tuple[Path, Path]) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    for path in once[1].glob("cells/*/*/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        assert np.isfinite(content["wall_s"])


# ---- a result as somebody else's file


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("method", {"options": {"prompts": "/etc/passwd"}}),
        ("method", {"options": {"references": "/etc"}}),
        ("data", {"options": {"manifest": "/etc/passwd"}}),
        ("run", {"backbone": "ViT-B-32//tmp/weights.pt"}),
    ],
)
def test_a_result_sets_no_paths(
    where: str, changes: dict[str, Any], once: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = once
    out = shutil.copytree(out, tmp_path / "out")
    [path] = out.glob("cells/*/*/*.json")
    shown = _error(["check", str(path), "--device", "cpu"], capsys)
    assert f"A file never says which folder is read: give it by hand, --root '{data}'" in shown
    assert cli.main(["check", str(path), "--device", "cpu", "--root", str(data)]) == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    content[where] |= changes
    path.write_text(json.dumps(content), encoding="utf-8")
    shown = _error(["check", str(path), "--device", "cpu", "--root", str(data)], capsys)
    assert "which a file may not" in shown or "none of open_clip's names" in shown


def test_nothing_published_stands_beside_the_synthetic_model(tmp_path: Path) -> None:
    """Neither beside its numbers nor as methods that were not run."""
    from zsad.benchmark.results import summarise
    from zsad.benchmark.tables import rows

    cell = {
        "data": {"label": "mvtec_ad"}, "method": {"label": "winclip", "name": "winclip"}, "class": "bottle", "seed": 0,
        "metrics": {"image_auroc": 0.5}, "bounds": {}, "images": [["a", 0, 0.1], ["b", 1, 0.2], ["c", 1, 0.3]],
        "images_per_s": 1.0, "peak_memory_mb": 1.0, "trained": None,
    }  # fmt: skip
    for backbone, beside in (
        ("zsad-mini", False),
        ("ViT-B-32/random", False),
        ("ViT-B-16-plus-240/laion400m_e31", True),
    ):
        [*found] = rows(summarise([{**cell, "backbone": {"name": backbone}}]))
        assert any(row["published"] is not None for row in found) == beside
        assert any(row["difference"] is not None for row in found) == beside
        assert (len(found) > 1) == beside


def test_the_page_says_how_many_images_a_class_has(
    once: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["report", str(once[1]), "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last one names the page, in one piece
    assert [line.split()[0] for line in lines if line.startswith("clip ")] == ["clip"]
    assert lines[-1].endswith(str(tmp_path / "report.html"))
    assert cli.main(["report", str(once[1]), "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in found["rows"]} == {"clip"}
    for name in ("report.md", "report.csv", "report.tex", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "normal" in text
    assert "| coin | 2 | 2 | clip |" in (tmp_path / "report.md").read_text(encoding="utf-8")
