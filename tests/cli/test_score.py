import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from zsad.cli.main import main as zsad
from zsad.cli.model_options import read_options
from zsad.cli.score import main
from zsad.cli.score_arguments import read_scale, read_window
from zsad.clip import load_clip
from zsad.images import ImageError
from zsad.images.cells import read_cells
from zsad.images.levels import read_count
from zsad.inference import Predictor, load_model
from zsad.inference.files import outermost
from zsad.inference.settings import SettingsError
from zsad.synthetic import generate

COUNT = 14


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in nested folders, with files beside them that are none."""
    root = tmp_path_factory.mktemp("parts")
    for number in range(COUNT):
        path = root / f"lot {number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generate("gear", "hole" if number % 2 else "", seed=number).image).save(path)
    (root / "notes.txt").write_text("no image")
    return root


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(read_cells(file))


def run(pictures: Path, out: Path, *more: str) -> list[dict[str, str]]:
    assert (
        main(
            [
                str(pictures),
                "--method",
                "clip",
                "--backbone=zsad-mini",
                "--class-name",
                "gear",
                "--out",
                str(out),
                "--device",
                "cpu",
                *more,
            ]
        )
        == 0
    )
    return rows_of(out)


def test_one_row_per_image_in_order_with_the_predictors_score(pictures: Path, tmp_path: Path) -> None:
    rows = run(pictures, tmp_path)
    paths = sorted(pictures.rglob("*.png"))
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [float(row["score"]) for row in rows]
    expected = [result.pred_score for result in load_model("clip", "zsad-mini", device="cpu").predict(paths, "gear")]
    assert [line["score"] for line in lines] == pytest.approx(expected, abs=1e-5)
    assert {row["label"] for row in rows} == {row["error"] for row in rows} == {""}


def test_heat_maps_are_those_of_the_predictor(pictures: Path, tmp_path: Path) -> None:
    rows = run(pictures, tmp_path / "out", "--overlay-size", "48", "--scale", "fixed")
    assert len(list((tmp_path / "out" / "overlays").rglob("*.jpg"))) == COUNT
    result = load_model("clip", "zsad-mini", device="cpu").predict(rows[3]["path"], "gear", size=48)
    expected = Image.open(result.save(tmp_path / "expected.jpg"))
    found = Image.open(tmp_path / "out" / rows[3]["overlay"])
    assert found.size == (48, 48)
    np.testing.assert_allclose(np.asarray(found).astype(int), np.asarray(expected), atol=2)


def test_no_overlays(pictures: Path, tmp_path: Path) -> None:
    run(pictures, tmp_path, "--no-overlays")
    assert not (tmp_path / "overlays").exists()


def test_batches_and_workers_do_not_matter(pictures: Path, tmp_path: Path) -> None:
    tables = [
        run(pictures, tmp_path / name, "--no-overlays", "--batch-size", size, "--num-workers", workers)
        for name, size, workers in (("a", "1", "0"), ("b", "8", "0"), ("c", "5", "2"))
    ]
    scores = [[float(row["score"]) for row in table] for table in tables]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert scores[0] == pytest.approx(scores[2], abs=1e-5)


def test_threshold_gives_labels(pictures: Path, tmp_path: Path) -> None:
    scores = sorted(float(row["score"]) for row in run(pictures, tmp_path / "a", "--no-overlays"))
    middle = (scores[COUNT // 2 - 1] + scores[COUNT // 2]) / 2
    labelled = run(pictures, tmp_path / "b", "--no-overlays", "--threshold", str(middle))
    assert [row["label"] for row in labelled] == [str(int(float(row["score"]) >= middle)) for row in labelled]
    assert sum(row["label"] == "1" for row in labelled) == COUNT // 2


def test_broken_files_get_rows_that_name_them_and_the_others_stay(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    intact = {Path(row["path"]).name: row["score"] for row in run(pictures, tmp_path / "intact", "--no-overlays")}
    mixed = tmp_path / "mixed"
    for path in pictures.rglob("*.png"):
        target = mixed / path.relative_to(pictures)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    whole = next(mixed.rglob("00.png")).read_bytes()
    broken = {
        "00a.png": b"",
        "01a.jpg": b"hello",
        "02a.png": whole[: len(whole) // 2],
        "03a.tif": whole[:9],
        "04a.gif": b"GIF89a",
    }
    for name, data in broken.items():
        (mixed / "lot 1" / name).write_bytes(data)
    rows = {Path(row["path"]).name: row for row in run(mixed, tmp_path / "out")}
    assert len(rows) == COUNT + 5
    for name in broken:
        assert name in rows[name]["error"]
        assert rows[name]["score"] == ""
    for name, score in intact.items():
        assert rows[name]["error"] == ""
        assert float(rows[name]["score"]) == pytest.approx(float(score), abs=1e-5)
    assert "5 file(s) could not be read or scored" in capsys.readouterr().err


def test_strict_stops_at_the_first_broken_file_and_keeps_the_rows_before(pictures: Path, tmp_path: Path) -> None:
    broken = tmp_path / "zz.png"
    broken.write_bytes(b"hello")
    with pytest.raises(ImageError, match=r"zz\.png"):
        run(pictures, tmp_path / "out", str(broken), "--strict", "--batch-size", "4", "--no-overlays")
    assert len(rows_of(tmp_path / "out")) == COUNT // 4 * 4


def test_killed_run_started_again_gives_the_rows_of_an_undisturbed_one(pictures: Path, tmp_path: Path) -> None:
    arguments = [
        str(pictures),
        "--method",
        "anovl",
        "--backbone=zsad-mini",
        "--class-name",
        "gear",
        "--batch-size",
        "2",
        "--device",
        "cpu",
        "--scale",
        "fixed",  # rows do not wait for the scale
    ]
    command = [
        sys.executable,
        "-c",
        "import sys; from zsad.cli.main import main; sys.exit(main())",
        "score",
        *arguments,
    ]
    rows = tmp_path / "killed" / "scores.jsonl"
    process = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (rows.exists() and rows.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with rows.open("ab") as file:
        file.write(b'{"path": "cut of')
    done = rows.read_bytes().count(b"\n")
    assert 0 < done < COUNT
    for name in ("killed", "whole"):
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
    for name in ("scores.csv", "scores.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    maps = [sorted(p.name for p in (tmp_path / name / "overlays").rglob("*.jpg")) for name in ("killed", "whole")]
    assert maps[0] == maps[1]


def test_second_run_scores_only_what_is_new(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(pictures / "lot 0", out, "--batch-size", "1", "--no-overlays")
    before = (out / "scores.jsonl").read_bytes()
    rows = run(pictures, out, "--batch-size", "1", "--no-overlays")
    assert rows[: len(first)] == first
    assert (out / "scores.jsonl").read_bytes().startswith(before)
    assert sorted(row["path"] for row in rows) == sorted(map(str, pictures.rglob("*.png")))


def test_other_settings_need_fresh(pictures: Path, tmp_path: Path) -> None:
    run(pictures, tmp_path, "--no-overlays")
    with pytest.raises(SettingsError, match=r"class_name: 'gear' then, 'cog' now"):
        run(pictures, tmp_path, "--no-overlays", "--class-name", "cog")
    assert len(run(pictures, tmp_path, "--no-overlays", "--class-name", "cog", "--fresh")) == COUNT


def test_other_weights_under_the_same_name_are_other_settings(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pictures, tmp_path, "--no-overlays")
    changed = load_clip("zsad-mini")
    with torch.no_grad():
        changed.model.visual.proj.add_(0.01)
    monkeypatch.setattr("zsad.methods.base.load_clip", lambda *args, **kwargs: changed)
    with pytest.raises(SettingsError, match=r"other settings \(backbone_weights: '\w{16}' then, '\w{16}' now\)"):
        run(pictures, tmp_path, "--no-overlays")


def test_options_of_the_method_get_through(pictures: Path, tmp_path: Path) -> None:
    cold = run(pictures, tmp_path / "a", "--no-overlays", "--option", "temperature=0.01", "--option", "sigma=2")
    warm = run(pictures, tmp_path / "b", "--no-overlays", "--option", "temperature=10")
    assert (
        max(abs(float(row["score"]) - 0.5) for row in warm) < 0.1 < max(abs(float(row["score"]) - 0.5) for row in cold)
    )


def test_a_hint_when_the_fixed_scale_hides_everything(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(pictures, tmp_path, "--option", "temperature=100", "--scale", "fixed")
    assert "a small part of the fixed scale 0 to 1: --scale 0." in " ".join(capsys.readouterr().err.split())


def test_highest_scores_are_shown(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(pictures, tmp_path, "--no-overlays")
    best = max(rows, key=lambda row: float(row["score"]))
    shown = capsys.readouterr()
    assert f"{float(best['score']):.5g}" in shown.err
    assert f"{COUNT} rows in" in shown.out
    assert "zsad-mini knows synthetic images only" in " ".join(shown.err.split())


def test_highest_scores_keep_numbers_and_names_at_80_columns(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    deep = tmp_path.joinpath(*["a folder with a long name"] * 3)
    short, long = "with a name of its own " * 2, "longer than a line " * 5
    for number, name in enumerate([short, long]):
        shutil.copytree(pictures / f"lot {number}", deep / name)
        for picture in (deep / name).iterdir():
            picture.rename(picture.with_name(f"{name}{picture.name}"))
    rows = run(deep, tmp_path / "out", "--no-overlays")
    lines = capsys.readouterr().err.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("The highest of "))
    worst = sorted(rows, key=lambda row: -float(row["score"]))[:5]
    for row, line in zip(worst, lines[start + 1 :], strict=False):
        score, path = line.split(maxsplit=1)
        name = Path(row["path"]).name
        assert (score, Path(path).name) == (f"{float(row['score']):.5g}", name)
        assert path in (row["path"], f"...{row['path'][-len(path) + 3 :]}")
        assert len(line) <= max(80, len(name) + 17)


def test_excluded_images_have_no_rows(pictures: Path, tmp_path: Path) -> None:
    rows = run(pictures, tmp_path, "--no-overlays", "--exclude", "*/lot 0/*", "--exclude", "*01.png")
    assert {Path(row["path"]).name for row in rows} == {f"{n:02d}.png" for n in range(COUNT) if n % 3 and n != 1}
    with pytest.raises(FileNotFoundError, match="No images under"):
        run(pictures, tmp_path / "out", "--exclude", "*.png")


def test_paths_inside_others_are_met_once(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    given = [str(inner), str(tmp_path / "a"), f"{tmp_path}/a/../a", str(tmp_path / "ab")]
    assert [os.path.realpath(path) for path in outermost(given)] == [str(tmp_path / "a"), str(tmp_path / "ab")]


@pytest.mark.parametrize(
    ("text", "scale"),
    [("fixed", None), ("auto", "auto"), ("image", "image"), ("0.4,0.6", (0.4, 0.6)), ("-1,2", (-1.0, 2.0))],
)
def test_scales(text: str, scale: object) -> None:
    assert read_scale(text) == scale


@pytest.mark.parametrize("text", ["0.6,0.4", "1", "a,b", "1,2,3", "nan,1"])
def test_scales_that_are_none(text: str) -> None:
    with pytest.raises(
        ValueError, match=rf"--scale must be 'auto', 'fixed', 'image' or LOW,HIGH with LOW < HIGH, got '{text}'"
    ):
        read_scale(text)


def test_options_are_read_as_yaml() -> None:
    assert read_options(["a=1", "b=x", "c=[1, 2]", "d=e=f"]) == {"a": 1, "b": "x", "c": [1, 2], "d": "e=f"}
    with pytest.raises(ValueError, match="--option must be NAME=VALUE, got 'sigma'"):
        read_options(["sigma"])


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No images under"):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="No such file or folder"):
        run(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match="--overlay-size must be at least 1 pixel, got 0"):
        run(Path(__file__), tmp_path / "out", "--overlay-size", "0")


def test_explanations_go_into_the_json_lines(pictures: Path, tmp_path: Path) -> None:
    arguments = [str(pictures), "--class-name", "gear", "--device", "cpu", "--no-overlays", "--explain"]
    arguments += ["--backbone", "zsad-mini"]
    assert main([*arguments, "--method", "alfa", "--out", str(tmp_path / "a")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "a" / "scores.jsonl").read_text().splitlines()]
    for row in rows:
        cosines = [cosine for _, cosine in row["explanation"]]
        assert len(cosines) == 5
        assert cosines == sorted(cosines, reverse=True)
    before = (tmp_path / "a" / "scores.jsonl").read_bytes()
    assert main([*arguments, "--method", "alfa", "--out", str(tmp_path / "a")]) == 0  # nothing is left to do
    assert (tmp_path / "a" / "scores.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match=r"CLIP does not explain its scores; of the methods, \['alfa'\] do"):
        main([*arguments, "--method", "clip", "--out", str(tmp_path / "b")])


def test_relevance_becomes_pictures_that_the_rows_name(pictures: Path, tmp_path: Path) -> None:
    arguments = [str(pictures), "--class-name", "gear", "--device", "cpu", "--no-overlays", "--backbone", "zsad-mini"]
    arguments += ["--out", str(tmp_path / "a"), "--overlay-size", "96", "--explain", "transmm", "--method"]
    assert main([*arguments, "clip"]) == 0
    lines = (tmp_path / "a" / "scores.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["explanation"]["overlay"] for row in rows}) == COUNT
    expected = load_model("clip", "zsad-mini", device="cpu").explain(rows[3]["path"], "gear", size=96)
    expected.save(tmp_path / "expected.jpg")
    assert rows[3]["explanation"]["kind"] == "transmm"
    with (
        Image.open(tmp_path / "a" / rows[3]["explanation"]["overlay"]) as got,
        Image.open(tmp_path / "expected.jpg") as want,
    ):
        assert got.size == want.size
        assert np.abs(np.asarray(got, float) - np.asarray(want, float)).mean() < 1
    assert not (tmp_path / "a" / "overlays").exists()
    assert main([*arguments, "clip"]) == 0  # nothing is left to do
    assert (tmp_path / "a" / "scores.jsonl").read_text().splitlines() == lines
    with pytest.raises(ValueError, match="score of AnoVL is not the class token's alone"):
        main([*arguments, "anovl", "--fresh"])
    with pytest.raises(SystemExit):
        main([*arguments, "clip", "--explain", "lime"])


def test_relabel_needs_no_model_and_the_run_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = sorted(float(row["score"]) for row in run(pictures, tmp_path, "--no-overlays"))
    with monkeypatch.context() as patch:
        patch.setattr("zsad.methods.base.load_clip", None)
        assert zsad(["relabel", str(tmp_path), "--threshold", str(scores[4])]) == 0
    assert f"{COUNT} rows in" in capsys.readouterr().out
    assert sum(row["label"] == "1" for row in rows_of(tmp_path)) == COUNT - 4
    again = run(pictures, tmp_path, "--no-overlays", "--threshold", str(scores[4]))
    assert again == rows_of(tmp_path)
    assert zsad(["relabel", str(tmp_path), "--threshold", "nan"]) == 2
    assert "A threshold must be a finite number, got nan" in capsys.readouterr().err


def test_a_changed_file_is_scored_again_and_a_vanished_one_is_marked(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    shutil.copytree(pictures, mine)
    first = {Path(row["path"]).name: row for row in run(mine, out, "--no-overlays", "--hash")}
    assert all(len(row["sha256"]) == 64 and row["bytes"] and row["mtime"] for row in first.values())
    shutil.copy(mine / "lot 1" / "01.png", mine / "lot 0" / "00.png")
    (mine / "lot 2" / "02.png").unlink()
    capsys.readouterr()
    rows = {Path(row["path"]).name: row for row in run(mine, out, "--no-overlays", "--hash")}
    assert float(rows["00.png"]["score"]) == pytest.approx(float(first["01.png"]["score"]), abs=1e-5)
    assert rows["02.png"]["warning"] == "The file is gone since it was scored."
    said = " ".join(capsys.readouterr().err.split())
    assert "Of the earlier run's images 1 changed and are scored again, 1 are gone: their rows stay" in said
    rows = {Path(row["path"]).name: row for row in run(mine, out, "--no-overlays", "--hash", "--prune")}
    assert "02.png" not in rows
    assert len(rows) == COUNT - 1


def test_every_spelling_of_the_folder_is_the_same_run(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    first = run(Path("lot 0"), tmp_path, "--no-overlays")
    assert first[0]["path"] == "lot 0/00.png"
    before = (tmp_path / "scores.jsonl").read_bytes()
    for spelled in (str(pictures / "lot 0"), "lot 1/../lot 0"):
        run(Path(spelled), tmp_path, "--no-overlays")
        assert (tmp_path / "scores.jsonl").read_bytes() == before
    monkeypatch.chdir(pictures / "lot 0")
    run(Path("."), tmp_path, "--no-overlays")
    assert (tmp_path / "scores.jsonl").read_bytes() == before


def test_random_numbers_depend_on_the_path_below_the_folder(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "lot 0", tmp_path / "elsewhere")
    more = ["--method", "anovl", "--option", "adapter=text", "--option", "views=none", "--no-overlays"]
    one = [float(row["score"]) for row in run(pictures / "lot 0", tmp_path / "a", *more)]
    two = [float(row["score"]) for row in run(tmp_path / "elsewhere", tmp_path / "b", *more)]
    assert one == pytest.approx(two, abs=1e-6)


def test_two_runs_into_one_folder(pictures: Path, tmp_path: Path) -> None:
    arguments = [str(pictures), "--method=anovl", "--backbone=zsad-mini", "--batch-size=2", "--device=cpu"]
    command = [sys.executable, "-m", "zsad.cli.main", "score", *arguments, "--no-overlays", "--out", str(tmp_path)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    assert any("Another run is writing into" in text for text in said)
    lines = [json.loads(line)["path"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert sorted(lines) == sorted(map(str, pictures.rglob("*.png")))


def test_the_output_is_never_an_input(pictures: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(pictures, mine)
    for _ in range(3):
        rows = run(mine, mine / "results")
        assert sorted(row["path"] for row in rows) == sorted(map(str, mine.glob("lot*/*.png")))


# ---- one odd thing does not end a run


def copied(pictures: Path, target: Path) -> Path:
    shutil.copytree(pictures, target)
    return target


def test_odd_files_and_folders_are_rows_or_nothing(pictures: Path, tmp_path: Path) -> None:
    mine = copied(pictures, tmp_path / "mine")
    (mine / "self.png").symlink_to("self.png")
    (mine / "loop").symlink_to("loop")
    (mine / "dangling.png").symlink_to("nowhere.png")
    (mine / ("長" * 80 + ".png")).write_bytes((mine / "lot 0" / "00.png").read_bytes())
    (mine / ("🙂" * 61 + ".png")).write_bytes((mine / "lot 0" / "03.png").read_bytes())
    for _ in range(2):
        rows = {Path(row["path"]).name: row for row in run(mine, tmp_path / "out")}
    assert len(rows) == COUNT + 4
    assert {name for name, row in rows.items() if row["error"]} == {"self.png", "dangling.png"}
    for row in rows.values():
        assert bool(row["overlay"]) == (not row["error"])
        assert not row["overlay"] or Image.open(tmp_path / "out" / row["overlay"]).size == (96, 96)


def test_a_folder_that_is_removed_during_the_run_leaves_a_row_for_each_image(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = copied(pictures, tmp_path / "mine")
    batches = Predictor.batches

    def removing(*arguments: Any, **options: Any) -> Any:
        for number, batch in enumerate(batches(*arguments, **options)):
            if number == 0:
                shutil.rmtree(mine / "lot 2")
            yield batch

    monkeypatch.setattr(Predictor, "batches", removing)
    rows = run(mine, tmp_path / "out", "--batch-size", "2", "--num-workers", "0")
    assert len(rows) == COUNT
    assert all("no such file" in row["error"] for row in rows if "lot 2" in row["path"])
    assert {Path(row["path"]).parent.name for row in rows if row["error"]} == {"lot 2"}


def test_an_image_that_the_method_cannot_take_is_a_row(pictures: Path, tmp_path: Path) -> None:
    mine = copied(pictures, tmp_path / "mine")
    Image.new("RGB", (600, 3)).save(mine / "lot 1" / "strip.png")
    more = ["--method", "anovl", "--option", "views=tiles", "--option", "tiling=true", "--no-overlays"]
    rows = {Path(row["path"]).name: row for row in run(mine, tmp_path / "out", *more)}
    assert "Two square tiles cover images from 1:1 to 2:1" in rows["strip.png"]["error"]
    assert [name for name, row in rows.items() if row["error"]] == ["strip.png"]


def test_a_heat_map_that_cannot_be_written_is_a_row_with_its_score(pictures: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "out" / "overlays" / "lot 0"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("no folder")
    rows = run(pictures, tmp_path / "out")
    failed = [row for row in rows if row["error"]]
    assert {Path(row["path"]).parent.name for row in failed} == {"lot 0"}
    assert all("Cannot write the heat map 'overlays/lot 0/" in row["error"] and row["score"] for row in failed)


@pytest.mark.parametrize("broken", ["nan", "inf"])
def test_weights_that_are_not_finite_give_errors_and_never_labels(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    changed = load_clip("zsad-mini")
    with torch.no_grad():
        changed.model.visual.proj[0, 0] = float(broken)
    monkeypatch.setattr("zsad.methods.base.load_clip", lambda *args, **kwargs: changed)
    arguments = [str(pictures), "--method=clip", "--backbone=zsad-mini", "--device=cpu", "--threshold=0.5"]
    assert zsad(["score", *arguments, "--out", str(tmp_path)]) == 1
    for row in rows_of(tmp_path):
        assert (row["score"], row["label"]) == ("", "")
        assert "the model's 'clip.model.visual.proj' holds values that are not finite" in row["error"]
    for line in (tmp_path / "scores.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    shown = capsys.readouterr()
    assert "Nothing could be scored" in shown.err
    assert "All maps" not in shown.err


def test_nan_is_no_threshold(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert zsad(["score", str(pictures), "--out", str(tmp_path / "out"), "--threshold", "nan"]) == 2
    assert "--threshold must be a finite number, got nan" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_that_can_be_scored_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_text("hello")
    arguments = ["score", str(tmp_path / "a.png"), "--method=clip", "--backbone=zsad-mini", "--out"]
    for _ in range(2):
        assert zsad([*arguments, str(tmp_path / "out")]) == 1
        shown = capsys.readouterr()
        assert "Nothing could be scored" in shown.err
        assert "inf" not in shown.err
    assert "1 rows in" in shown.out
    assert "none of them new" in shown.out


# ---- grey levels, sizes, what is passed over


def test_windows_and_warnings(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    grey = np.asarray(Image.open(pictures / "lot 1" / "01.png").convert("L"))
    Image.fromarray(grey).save(mine / "8.png")
    Image.fromarray(np.rint(grey.astype(np.float64) * (4095 / 255)).astype(np.uint16)).save(mine / "12.png")
    tifffile.imwrite(mine / "signed.tif", grey.astype(np.int16) * 16)
    dark = {Path(row["path"]).name: row for row in run(mine, tmp_path / "a", "--no-overlays")}
    assert "a window of 0,4095 would fit" in dark["12.png"]["warning"]
    assert "give a window (--window LOW,HIGH)" in dark["signed.tif"]["error"]
    assert dark["8.png"]["warning"] == ""
    said = " ".join(capsys.readouterr().err.split())
    assert "1 picture(s) use less than an eighth of their range" in said
    assert "--window 0,4095 --fresh" in said
    right = {Path(row["path"]).name: row for row in run(mine, tmp_path / "b", "--no-overlays", "--window", "0,4095")}
    assert {row["warning"] + row["error"] for row in right.values()} == {""}
    expected = float(right["8.png"]["score"])
    assert float(right["12.png"]["score"]) == pytest.approx(expected, abs=1e-5)
    assert abs(float(dark["12.png"]["score"]) - expected) > 1e-3
    assert float(right["signed.tif"]["score"]) == pytest.approx(expected, abs=0.05)
    twelve = run(mine, tmp_path / "c", "--no-overlays", "--bits", "12")
    assert [row["score"] for row in twelve] == [row["score"] for row in right.values()]


def test_large_files_are_rows_with_an_error(pictures: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (90, 90)).save(small)
    rows = run(pictures, tmp_path / "out", str(small), "--no-overlays", "--max-pixels", "9k")
    failed = [row["error"] for row in rows if row["path"] != str(small)]
    assert all("it has 96 x 96 pixels, more than max_pixels=9000" in error for error in failed)
    assert [bool(row["score"]) for row in rows] == [False] * COUNT + [True]


@pytest.mark.parametrize(("text", "count"), [("50M", 50_000_000), ("1.5k", 1500), ("7", 7), ("1g", 10**9)])
def test_counts(text: str, count: int) -> None:
    assert read_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1", "0", "nan", "inf", "5X"])
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number such as 50000000 or 50M"):
        read_count(text)
    with pytest.raises(argparse.ArgumentTypeError, match="must be LOW,HIGH"):
        read_window(text)


def test_what_is_passed_over_is_counted_and_said(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = copied(pictures, tmp_path / "mine")
    for name in ("a.dng", "b.dng", "scan", ".hidden"):
        (mine / name).write_bytes(b"x")
    run(mine, tmp_path / "out", "--no-overlays")
    said = " ".join(capsys.readouterr().err.split())
    assert "Passed over 4 file(s) that are no images by their names: 2 .dng" in said
    assert "1 without an ending" in said


# ---- heat maps


def test_one_scale_for_all_heat_maps_frozen_in_the_settings(pictures: Path, tmp_path: Path) -> None:
    rows = run(pictures / "lot 0", tmp_path, "--overlay-size", "96", "--option", "temperature=1")
    settings = json.loads((tmp_path / "settings.json").read_text())
    model = load_model("clip", "zsad-mini", device="cpu", temperature=1)
    results = {row["path"]: model.predict(row["path"], "gear", size=96) for row in rows}
    every = np.concatenate([result.anomaly_map.ravel() for result in results.values()])
    assert settings["scale"] == pytest.approx(np.quantile(every, [0.01, 0.999]), rel=1e-4)
    more = run(pictures, tmp_path, "--overlay-size", "96", "--option", "temperature=1")
    assert json.loads((tmp_path / "settings.json").read_text())["scale"] == settings["scale"]
    for row in more:
        result = results.get(row["path"]) or model.predict(row["path"], "gear", size=96)
        expected = np.asarray(result.overlay(tuple(settings["scale"]))).astype(int)
        found = np.asarray(Image.open(tmp_path / row["overlay"])).astype(int)
        assert np.abs(found - expected).mean() < 6  # JPEG
    spread = [np.asarray(Image.open(tmp_path / row["overlay"])).std() for row in rows]
    assert min(spread) > 20  # no flat tint


def test_rows_name_their_heat_maps_readably(pictures: Path, tmp_path: Path) -> None:
    other = copied(pictures / "lot 0", tmp_path / "other")
    rows = run(pictures, tmp_path / "out", str(other), str(pictures / "lot 1" / "01.png"))
    names = {row["path"]: row["overlay"] for row in rows}
    assert names[str(pictures / "lot 0" / "00.png")] == "overlays/lot 0/00.png.jpg"
    assert names[str(other / "00.png")] == "overlays/from other/00.png.jpg"
    assert len(set(names.values())) == len(names)
    again = run(other, tmp_path / "out")  # alone, it keeps its name
    assert {row["path"]: row["overlay"] for row in again} == names


def test_what_was_scored_before_an_interruption_stays(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Predictor.batches

    def interrupted(*arguments: Any, **options: Any) -> Any:
        for number, batch in enumerate(batches(*arguments, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(pictures, tmp_path, "--batch-size", "2")
    assert [bool(row["overlay"]) for row in rows_of(tmp_path)] == [True] * 4
    assert len(run(pictures, tmp_path, "--batch-size", "2")) == COUNT


# ---- references


def test_an_image_that_is_a_reference_is_not_scored(pictures: Path, tmp_path: Path) -> None:
    references = copied(pictures / "lot 0", tmp_path / "references" / "gear" / "deep")
    shutil.copy(references / "00.png", tmp_path / "other name.png")
    more = ["--references", str(tmp_path / "references"), "--no-overlays"]
    rows = run(pictures, tmp_path / "out", str(tmp_path / "other name.png"), *more)
    refused = {Path(row["path"]).name for row in rows if row["error"]}
    assert refused == {"other name.png", *(path.name for path in (pictures / "lot 0").iterdir())}
    assert all("is one of the references of class 'gear'" in row["error"] for row in rows if row["error"])
    (references / "03.png").unlink()
    with pytest.raises(SettingsError, match=r"references: '\w{16}' then, '\w{16}' now"):
        run(pictures, tmp_path / "out", str(tmp_path / "other name.png"), *more)
