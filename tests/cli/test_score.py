import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsad.cli.main import main as zsad
from zsad.cli.model_options import read_options
from zsad.cli.score import main, overlay_path, read_scale
from zsad.clip import load_clip
from zsad.images import ImageError
from zsad.inference import load_model
from zsad.inference.files import outermost
from zsad.inference.settings import SettingsError
from zsad.report.cells import read_cells
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
    rows = run(pictures, tmp_path / "out", "--overlay-size", "48")
    assert len(list((tmp_path / "out" / "overlays").rglob("*.jpg"))) == COUNT
    result = load_model("clip", "zsad-mini", device="cpu").predict(rows[3]["path"], "gear", size=48)
    expected = Image.open(result.save(tmp_path / "expected.jpg"))
    found = Image.open(overlay_path(tmp_path / "out", rows[3]["path"]))
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
    assert "5 file(s) could not be read" in capsys.readouterr().err


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
    run(pictures, tmp_path, "--option", "temperature=100")
    assert "a small part of the fixed scale 0 to 1: --scale 0." in " ".join(capsys.readouterr().err.split())


def test_highest_scores_are_shown(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(pictures, tmp_path, "--no-overlays")
    best = max(rows, key=lambda row: float(row["score"]))
    shown = capsys.readouterr()
    assert f"{float(best['score']):.5g}" in shown.err
    assert f"{COUNT} rows in" in shown.out
    assert "zsad-mini knows synthetic images only" in " ".join(shown.err.split())


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


def test_overlays_of_equal_names_do_not_collide(tmp_path: Path) -> None:
    one, two = overlay_path(tmp_path, "a/1.png"), overlay_path(tmp_path, "b/1.png")
    assert one != two
    assert one.name.startswith("1-")
    assert len(overlay_path(tmp_path, "x" * 300 + ".png").name) < 120


@pytest.mark.parametrize(
    ("text", "scale"), [("fixed", None), ("image", "image"), ("0.4,0.6", (0.4, 0.6)), ("-1,2", (-1.0, 2.0))]
)
def test_scales(text: str, scale: object) -> None:
    assert read_scale(text) == scale


@pytest.mark.parametrize("text", ["0.6,0.4", "1", "a,b", "1,2,3", "nan,1"])
def test_scales_that_are_none(text: str) -> None:
    with pytest.raises(
        ValueError, match=rf"--scale must be 'fixed', 'image' or LOW,HIGH with LOW < HIGH, got '{text}'"
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
