"""``zsad score --watch``: every file that arrives gets one row, whatever happens to it and to the run."""

import io
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.cli.main import main
from zsad.inference.rows import Row
from zsad.inference.writer import read_rows

MODEL = ["--method", "maskclip", "--backbone", "zsad-mini", "--device", "cpu", "--num-workers", "0", "--no-overlays"]
LONG = 400.0  # seconds: reached only when something hangs


def png(number: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.RandomState(number).randint(0, 256, (12, 12, 3)).astype(np.uint8)).save(data, "png")
    return data.getvalue()


def rows_of(out: Path) -> list[Row]:
    return list(read_rows(out)) if (out / "scores.jsonl").exists() else []


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.02)


def while_watching(arguments: list[str], out: Path, play: Callable[[], None]) -> int:
    """Run the command in this process, which gets SIGTERM when the play is over."""
    page = out / "index.html"  # there is one as soon as the folder is watched
    page.unlink(missing_ok=True)
    ended, wrong = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            until(lambda: ended.is_set() or page.exists())
            if not ended.is_set():
                play()
        except BaseException as error:
            wrong.append(error)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        return main(["score", *arguments, "--out", str(out), "--watch", *MODEL])
    finally:
        ended.set()
        thread.join()
        if wrong:
            raise wrong[0]


def test_a_thousand_files_in_any_order_half_of_them_in_two_writes_twenty_deleted_one_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsad.inference.arrivals.LAST_TRY", 3600.0)  # however slow the writer of second halves is
    folder, out, rng = tmp_path / "in", tmp_path / "out", random.Random(0)
    (folder / "deep" / "er").mkdir(parents=True)
    contents = {folder / ("", "deep", "deep/er")[n % 3] / f"{n:04}.png": png(n) for n in range(1000)}
    names = list(contents)
    rng.shuffle(names)
    deleted = set(names[::50])
    jobs: list[tuple[float, Callable[[], object]]] = []
    for place, name in enumerate(names):
        content, half = contents[name], len(contents[name]) // 2
        first, second = sorted(rng.random() for _ in range(2))
        if place % 2:
            jobs.append((first, lambda n=name, c=content[:half]: n.write_bytes(c)))  # type: ignore[misc]
            jobs.append((second, lambda n=name, c=content[half:]: n.open("ab").write(c)))  # type: ignore[misc]
        elif place % 4:
            jobs.append((first, lambda n=name, c=content: n.with_suffix(".part").write_bytes(c)))  # type: ignore[misc]
            jobs.append((second, lambda n=name: n.with_suffix(".part").rename(n)))  # type: ignore[misc]
        else:
            jobs.append((second, lambda n=name, c=content: n.write_bytes(c)))  # type: ignore[misc]
        if name in deleted:
            jobs.append((second + rng.random() / 2, name.unlink))
    order = [job for _, job in sorted(jobs, key=lambda one: one[0])]

    def first_half() -> None:
        for job in order[: len(order) // 2]:
            job()
        until(lambda: len(rows_of(out)) >= 100)

    def second_half() -> None:
        for job in order[len(order) // 2 :]:
            job()
        until(lambda: {row.path for row in rows_of(out)} >= {str(name) for name in names if name not in deleted})

    command = [str(folder), "--settle", "0.3", "--batch-size", "32"]
    assert while_watching(command, out, first_half) == 0
    assert while_watching(command, out, second_half) == 0
    rows = rows_of(out)
    counts = Counter(row.path for row in rows)
    assert set(counts.values()) == {1}
    assert {str(name) for name in names if name not in deleted} <= set(counts) <= set(map(str, names))
    assert [row.error for row in rows if row.error is not None] == []
    for row in rows:
        assert row.bytes == len(contents[Path(row.path)]), "half a file was scored"
    table = (out / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 1 + len(rows)


def test_an_empty_folder_fills_goes_away_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsad.inference.arrivals.LAST_TRY", 0.1)
    monkeypatch.setattr("zsad.cli.watching.PAGE", 0.0)
    folder, away, out = tmp_path / "share", tmp_path / "elsewhere", tmp_path / "out"
    folder.mkdir()
    heard: list[str] = []

    def said(sentence: str) -> bool:
        heard.append(capsys.readouterr().err)
        return sentence in " ".join("".join(heard).split())

    def play() -> None:
        (folder / "nut").mkdir()
        (folder / "nut" / "0.png").write_bytes(png(0))
        until(lambda: len(rows_of(out)) == 1)
        until(lambda: "nut/0.png" in (out / "index.html").read_text(encoding="utf-8"))
        folder.rename(away)
        until(lambda: said("is away: waiting until it is back."))
        (away / "bolt").mkdir()
        (away / "bolt" / "1.png").write_bytes(png(1))
        away.rename(folder)
        until(lambda: said("is back."))
        (folder / "nut" / "cut.png").write_bytes(png(2)[:100])
        (folder / "notes.txt").write_text("no image")
        until(lambda: len(rows_of(out)) == 3)

    command = [str(folder), "--settle", "0.1", "--polling", "--class-name-from", "parent"]
    assert while_watching(command, out, play) == 0
    rows = {Path(row.path).name: row for row in rows_of(out)}
    assert {name: row.class_name for name, row in rows.items()} == {"0.png": "nut", "1.png": "bolt", "cut.png": "nut"}
    assert [name for name, row in rows.items() if row.error is not None] == ["cut.png"]
    (run,) = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert run["end"] == "done"
    assert run["counts"]["rows"] == 3
    assert main(["score", *command[:1], *command[-2:], "--out", str(out), *MODEL]) == 0  # goes on without watching
    assert len(rows_of(out)) == 3


def test_a_command_gets_the_row_of_each_alarm_without_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, log = tmp_path / "in", tmp_path / "out", tmp_path / "log"
    folder.mkdir()
    script = tmp_path / "take it.py"
    script.write_text(
        "import sys, pathlib\n"
        "pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read())\nsys.exit(int(sys.argv[2] != '$HOME; false'))\n"
    )
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number))
    command = f"'{sys.executable}' '{script}' '{log}' '$HOME; false'"
    arguments = [str(folder), "--settle", "0.1", "--threshold", "0", "--on-anomaly", command]
    told = lambda: log.read_text().splitlines() if log.exists() else []  # noqa: E731
    assert while_watching(arguments, out, lambda: until(lambda: len(told()) == 3)) == 0
    assert while_watching(arguments, out, lambda: None) == 0  # told once, whatever the batch was
    rows = rows_of(out)
    assert [row.label for row in rows] == [1, 1, 1]
    assert [json.loads(line) for line in told()] == [json.loads(row.line()) for row in rows]
    assert "ended with status" not in capsys.readouterr().err
    for wrong, said in (
        (f"'{sys.executable}' -c 1/0", "ended with status 1"),
        ("/no/such/program", "could not be run"),
    ):
        again = ["score", str(folder), "--out", str(tmp_path / said[:5]), "--threshold", "0", "--on-anomaly", wrong]
        assert main([*again, *MODEL]) == 0
        assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--watch", "--settle", "0"], "--settle must be a number of seconds above 0"),
        (["--watch", "--strict"], "--strict ends at the first bad file"),
        (["--on-anomaly", "true"], "--on-anomaly needs labels"),
        (["--on-anomaly", "'open", "--threshold", "1"], "cannot be split into arguments"),
        (["--watch", "--method", "musc"], "musc compares the images of a folder with each other"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    assert main(["score", str(tmp_path), "--out", str(tmp_path / "out"), *MODEL, *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert main(["score", str(tmp_path / "0.png"), "--out", str(tmp_path / "out"), "--watch", *MODEL]) == 2
    assert "takes folders" in capsys.readouterr().err
