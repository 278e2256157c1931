"""``zsad score`` with a method that compares the images of a folder: two passes, kills, later images, other panels."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from zsad.cli.main import main as zsad
from zsad.cli.score import main
from zsad.clip.tensor_store import TokenCache
from zsad.inference import load_model
from zsad.methods.musc import PanelError, SamePixelsWarning
from zsad.synthetic import generate

COUNT = 10


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of one product in a folder with another in it, and a file that is none."""
    root = tmp_path / "photos"
    for number in range(COUNT):
        path = root / ("late" if number > 6 else "") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generate("leather", "dent" if number % 4 == 3 else "", seed=number).image).save(path)
    (root / "05.png").write_bytes(b"no image")
    return root


def arguments(photos: Path, out: Path, *more: str) -> list[str]:
    """Of the command."""
    fixed = ["--method=musc", "--backbone=zsad-mini", "--batch-size=3", "--no-overlays", "--device=cpu"]
    return [str(photos), "--out", str(out), *fixed, "--num-workers=0", *more]


def score(photos: Path, out: Path, *more: str) -> dict[str, dict[str, Any]]:
    """Rows by name."""
    assert main(arguments(photos, out, *more)) == 0
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    return {Path(row["path"]).name: row for row in rows}


def test_a_folder_is_scored_as_in_python(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = score(photos, tmp_path / "out")
    model = load_model("musc", "zsad-mini", device="cpu", batch_size=3)
    results = {Path(str(one.image_path)).name: one for one in model.predict(photos)}
    assert rows["05.png"]["score"] is None
    for name in set(rows) - {"05.png"}:
        assert rows[name]["score"] == pytest.approx(results[name].pred_score, abs=1e-6)
    said = " ".join(capsys.readouterr().err.split())
    assert "Scores depend on the other images of the folder. The panel holds 9 images." in said
    assert "they would move by about" in said
    settings = json.loads((tmp_path / "out" / "settings.json").read_text(encoding="utf-8"))
    assert settings["panel"] == "drawn"
    assert settings["note"] == "Scores depend on the other images of the folder."
    listed = json.loads((tmp_path / "out" / "panel.json").read_text(encoding="utf-8"))
    assert [one["path"] for one in listed["images"]] == sorted(
        path.relative_to(photos).as_posix() for path in photos.rglob("*.png") if path.name != "05.png"
    )
    assert not (tmp_path / "out" / "panel").exists()  # only needed until the panel is complete


def test_killed_at_any_stage_and_continued_gives_the_same_rows(photos: Path, tmp_path: Path) -> None:
    score(photos, tmp_path / "whole")
    command = [sys.executable, "-c", "import sys; from zsad.cli.main import main; sys.exit(main())", "score"]
    out = tmp_path / "killed"
    process = subprocess.Popen([*command, *arguments(photos, out)], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((out / "panel" / "tokens").glob("*.safetensors"))) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (out / "panel.json").is_file()
    score(photos, out)
    for name in ("scores.jsonl", "scores.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("stage", ["tokens", "units", "panel", "rows"])
def test_interrupted_in_each_pass_and_continued_gives_the_same_rows(
    stage: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "broken"
    few = ["--option", "panel=6"]  # so that some images are in the panel and some are not
    score(photos, whole, *few)
    calls = {"tokens": "zsad.clip.tensor_store.save_file", "units": "zsad.methods.musc.build.save_file"}
    calls |= {"panel": "zsad.methods.musc.panel.save_file", "rows": "zsad.inference.writer.RowWriter.write"}
    after = {"tokens": 4, "units": 3, "panel": 0, "rows": 1}[stage]
    module, _, name = calls[stage].rpartition(".")
    target: Any = sys.modules.get(module)
    if target is None:
        module, _, owner = module.rpartition(".")
        target = getattr(sys.modules[module], owner)
    real, done = getattr(target, name), [0]

    def breaking(*values: Any, **named: Any) -> Any:
        if done[0] == after:
            raise KeyboardInterrupt
        done[0] += 1
        return real(*values, **named)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, breaking)
        with pytest.raises(KeyboardInterrupt):
            main(arguments(photos, out, *few))
    encoded: list[str] = []
    put = TokenCache.put

    def counted(cache: TokenCache, key: str, tensors: Any) -> int:
        encoded.append(key)
        return put(cache, key, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(TokenCache, "put", counted)
        score(photos, out, *few)
    assert len(encoded) == (6 - 4 if stage == "tokens" else 0)  # what was there is not computed again
    for name in ("scores.jsonl", "scores.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_folder_that_grows_keeps_its_panel_and_its_rows(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--option", "panel=5", "--batch-size=5"]  # whole batches, whose rows are not written again
    first = score(photos, out, *options)
    panel = (out / "panel.safetensors").read_bytes()
    Image.fromarray(generate("leather", "", seed=99).image).save(photos / "99.png")
    second = score(photos, out, *options)
    assert {name: row for name, row in second.items() if name != "99.png"} == first
    assert second["99.png"]["score"] > 0
    assert (out / "panel.safetensors").read_bytes() == panel
    fresh = score(photos, out, *options, "--fresh")
    assert (out / "panel.safetensors").read_bytes() != panel
    assert fresh["00.png"]["score"] != first["00.png"]["score"]


def test_tomorrows_folder_meets_todays_panel(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    today = score(photos, tmp_path / "today")
    tomorrow = tmp_path / "tomorrow"
    tomorrow.mkdir()
    Image.fromarray(generate("leather", "glue", seed=70).image).save(tomorrow / "00.png")  # another 00.png
    shutil.copy(photos / "01.png", tomorrow / "copy.png")
    panel = tmp_path / "today" / "panel.safetensors"
    with pytest.warns(SamePixelsWarning, match=r"'copy.png' has the same pixels as '01.png'"):
        rows = score(tomorrow, tmp_path / "out", "--panel", str(panel))
    assert "Compared with 9 images: panel" in " ".join(capsys.readouterr().err.split())
    assert rows["00.png"]["score"] != today["00.png"]["score"]
    assert "same pixels as '01.png'" in rows["copy.png"]["warning"]
    assert rows["00.png"]["warning"] is None
    model = load_model("musc", "zsad-mini", device="cpu", panel=panel)
    assert rows["00.png"]["score"] == pytest.approx(model.predict(tomorrow / "00.png").pred_score, abs=1e-6)
    with pytest.raises(ValueError, match="panel: "):  # another panel, other rows
        score(tomorrow, tmp_path / "out")


def test_a_panel_image_that_changed_is_an_error_and_one_that_is_gone_is_not(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = score(photos, out)
    (photos / "01.png").unlink()
    rows = score(photos, out)
    assert rows["02.png"] == first["02.png"]
    Image.fromarray(generate("leather", "", seed=55).image).save(photos / "02.png")
    with pytest.raises(PanelError, match=r"02.png' is an image of the panel and has changed.*--fresh"):
        main(arguments(photos, out))


def test_files_of_one_name_in_two_folders_are_two_images(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for number in range(4):
        Image.fromarray(generate("leather", "", seed=200 + number).image).save(other / f"{number:02d}.png")
    assert main(arguments(photos, tmp_path / "out", str(other))) == 0
    lines = (tmp_path / "out" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {json.loads(line)["path"]: json.loads(line) for line in lines}
    assert len(rows) == COUNT + 4
    assert all(row["warning"] is None for row in rows.values())
    assert min(row["score"] for row in rows.values() if row["score"] is not None) > 0.1  # nobody saw itself


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method=clip", "--panel=x"], "--panel is for methods that compare images; CLIP has no panel"),
        (["--panel=absent.safetensors"], "No such panel: 'absent.safetensors'"),
    ],
)
def test_what_cannot_be_is_said(
    more: list[str], message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zsad(["score", *arguments(photos, tmp_path / "out", *more)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_one_image_alone_says_what_is_missing(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert zsad(["score", *arguments(photos / "00.png", tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "1 readable image(s) of 1" in said
    assert "needs at least 2, better 30 or more; or give a panel with --panel FILE" in said


def test_normal_references_are_the_panel(photos: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for number in range(3):
        Image.fromarray(generate("leather", "", seed=300 + number).image).save(good / f"{number}.png")
    out = tmp_path / "out"
    rows = score(photos, out, "--option", f"references={os.fspath(good)}")
    assert not (out / "panel.json").exists()
    assert sum(row["score"] is not None for row in rows.values()) == COUNT - 1
