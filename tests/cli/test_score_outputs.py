"""What ``zsad score`` writes beside its rows: page, Parquet, raw maps, audit lines; and what it says in 20 lines."""

import getpass
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import tifffile
from PIL import Image

from zsad.cli.main import main
from zsad.decision import Card
from zsad.decision.regions import regions
from zsad.inference import load_model
from zsad.inference.rows import COLUMNS
from zsad.metrics.folder import evaluate_folder, read_map
from zsad.synthetic import generate

MODEL = ["--method", "clip", "--backbone", "zsad-mini", "--device", "cpu", "--num-workers", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one class, 24 good pictures that calibrate, and a file that is none."""
    root = tmp_path_factory.mktemp("data")
    for part, defect, number in (("good", "", 3), ("hole", "hole", 4)):
        for seed in range(number):
            scene = generate("leather", defect, seed=seed)
            picture = Image.fromarray(scene.image).resize((120, 90))
            path = root / "set" / "leather" / "test" / part / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            if defect:
                mask = root / "masks" / "leather" / "ground_truth" / part / f"{seed}_mask.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(scene.mask.astype(np.uint8) * 255).resize((120, 90), 0).save(mask)
    (root / "set" / "leather" / "test" / "good" / "broken.png").write_bytes(b"no picture")
    (root / "calibrate").mkdir()
    for seed in range(100, 124):
        Image.fromarray(generate("leather", seed=seed).image).resize((120, 90)).save(root / "calibrate" / f"{seed}.png")
    return root


@pytest.fixture(scope="module")
def card(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cards") / "leather.card.json"
    base = ["calibrate", str(data / "calibrate"), "--out", str(path), "--class-name", "leather", "--regions"]
    assert main([*base, "--alpha", "0.2", "--mm-per-pixel", "0.5", *MODEL]) == 0
    return path


@pytest.fixture(scope="module")
def runs(data: Path, card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures with the card, and without it but with maps in both formats and in another size."""
    root = tmp_path_factory.mktemp("runs")
    base = ["score", str(data / "set"), "--class-name", "leather", "--device", "cpu", "--num-workers", "0"]
    assert main([*base, "--out", str(root / "card"), "--calibration", str(card), "--format", "parquet"]) == 0
    for name, more in {
        "npy": ["--maps", "npy", "--format", "parquet"],
        "tiff16": ["--maps", "tiff16", "--no-overlays", "--no-page"],
        "small": ["--maps", "npy", "--map-size", "60", "--no-overlays"],
    }.items():
        assert main([*base, "--out", str(root / name), *MODEL[:4], *more]) == 0
    return root


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "scores.jsonl").read_text(encoding="utf-8").splitlines()]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "runs.jsonl").read_text(encoding="utf-8").splitlines()]


def shown(run: Path) -> dict[str, Any]:
    text = (run / "index.html").read_text(encoding="utf-8")
    found = re.search(r'id="rows">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def test_maps_are_those_of_the_model(data: Path, runs: Path) -> None:
    model = load_model("clip", "zsad-mini", device="cpu")
    for row in rows(runs / "npy"):
        if row["error"]:
            assert row["map"] is None
            continue
        assert row["map"] == f"maps/{Path(row['path']).relative_to(data / 'set').as_posix()}.npy"
        values = np.load(runs / "npy" / row["map"])
        assert values.shape == (96, 96)  # the model's, not the picture's, which is 120 x 90
        native = model.predict(row["path"], "leather").anomaly_map
        grown = model.enlarge(values, native.shape)
        np.testing.assert_allclose(grown, native, atol=1e-5)
    for row in rows(runs / "small"):
        if not row["error"]:
            assert np.load(runs / "small" / row["map"]).shape == (45, 60)


def test_levels_in_a_tiff_are_undone(runs: Path) -> None:
    for exact, levels in zip(rows(runs / "npy"), rows(runs / "tiff16"), strict=True):
        if exact["error"]:
            continue
        own, path = np.load(runs / "npy" / exact["map"]), runs / "tiff16" / levels["map"]
        raw = tifffile.imread(path)
        assert raw.dtype == np.uint16
        assert (raw.min(), raw.max()) == (0, 65535)
        np.testing.assert_allclose(read_map(path).numpy(), own, atol=float(np.ptp(own)) / 65535)
    assert not (runs / "tiff16" / "index.html").exists()
    assert not (runs / "tiff16" / "overlays").exists()


def test_maps_of_a_run_are_evaluated(data: Path, runs: Path) -> None:
    found = evaluate_folder(
        runs / "npy" / "maps", data / "masks", runs / "npy" / "scores.csv", resize="mask", mode="exact"
    )
    scores: dict[bool, list[float]] = {False: [], True: []}
    for row in rows(runs / "npy"):
        if row["score"] is not None:
            scores["hole" in row["path"]].append(row["score"])
    better = [(bad > good) + 0.5 * (bad == good) for bad in scores[True] for good in scores[False]]
    assert len(scores[False]) == 3
    assert found.mean["image_auroc"] == pytest.approx(np.mean(better))
    assert "pixel_auroc" in found.mean


def test_labels_of_a_run_are_no_truth(data: Path, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "npy", run)
    assert main(["relabel", str(run), "--threshold", "0"]) == 0  # all of them anomalous
    own, other = (
        evaluate_folder(one / "maps", data / "masks", one / "scores.csv", resize="mask", mode="exact").mean
        for one in (runs / "npy", run)
    )
    assert own == other


def test_relabelling_with_maps_finds_the_regions_of_scoring(runs: Path, card: Path, tmp_path: Path) -> None:
    expected = rows(runs / "card")
    assert any(row["n_regions"] for row in expected)
    for kind in ("npy", "tiff16"):
        run = tmp_path / kind
        shutil.copytree(runs / kind, run)
        assert main(["relabel", str(run), "--calibration", str(card)]) == 0
        for own, other in zip(rows(run), expected, strict=True):
            assert (own["label"], own["p_value"], own["n_regions"]) == (
                other["label"], other["p_value"], other["n_regions"],
            )  # fmt: skip
            if kind == "npy":
                assert own.get("regions") == other.get("regions")


def test_page_and_table_follow_other_labels(runs: Path, card: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "npy", run)
    before = shown(run)
    assert {row[2] for row in before["rows"]} == {None}
    assert before["mm_per_pixel"] is None
    assert main(["relabel", str(run), "--calibration", str(card)]) == 0
    after = shown(run)
    labels = {row["path"]: row["label"] for row in rows(run)}
    assert {row[0]: row[2] for row in after["rows"]} == labels
    assert after["mm_per_pixel"] == 0.5  # the card's
    text = (run / "index.html").read_text(encoding="utf-8")
    assert f"leather: alarm from {Card.load(card).entry().threshold:.5g} on" in text
    table = pyarrow.parquet.read_table(run / "scores.parquet").to_pylist()
    assert [row["label"] for row in table] == [row["label"] for row in rows(run)]


def test_parquet_has_the_rows_with_types(runs: Path) -> None:
    table = pyarrow.parquet.read_table(runs / "card" / "scores.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["score"], types["label"], types["bytes"], types["path"]) == ("double", "int8", "int64", "string")
    for own, row in zip(table.to_pylist(), rows(runs / "card"), strict=True):
        assert {name: own[name] for name in COLUMNS} == {name: row[name] for name in COLUMNS}
    found = [json.loads(one) for one in table["regions"].to_pylist() if one]
    assert found == [row["regions"] for row in rows(runs / "card") if row.get("regions")]


def test_parquet_without_its_package_is_said_before_anything_is_scored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    command = ["score", str(data / "set"), "--out", str(tmp_path / "run"), *MODEL, "--format", "parquet"]
    assert main(command) == 2
    assert 'pip install "zsad[parquet]"' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_regions_are_cut_from_maps_for_other_tools(runs: Path, tmp_path: Path) -> None:
    run, out = runs / "npy", tmp_path / "regions.json"
    maps = [read_map(run / row["map"]).numpy() for row in rows(run) if row["map"]]
    threshold = float(np.quantile(np.stack(maps), 0.98))
    base = ["export-regions", str(run), "--format", "coco", "--out", str(out)]
    assert main([*base, "--pixel-threshold", str(threshold), "--min-area", "5"]) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    model = load_model("clip", "zsad-mini", device="cpu")
    expected = []
    for row in rows(run):
        if row["map"]:
            grown = model.enlarge(np.load(run / row["map"]), (90, 120))
            expected.append([list(one.box) for one in regions(grown, threshold, 5)])
    assert sum(map(len, expected)) > 0
    found: dict[int, list[Any]] = {image["id"]: [] for image in content["images"]}
    for one in content["annotations"]:
        found[one["image_id"]].append(one["bbox"])
    assert list(found.values()) == expected
    assert main([*base, "--min-area", "5"]) == 2
    assert main(["export-regions", str(runs / "card"), *base[2:], "--pixel-threshold", "0.5"]) == 2  # has no maps


def test_every_run_leaves_a_line_that_stays(data: Path, card: Path, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "card", run)
    (first,) = lines(run)
    found = Card.load(card)
    assert first["user"] == getpass.getuser()
    assert first["command"][:2] == ["zsad", "score"]
    assert first["end"] == "done"
    assert first["card"] == found.digest
    assert {name: first["model"][name] for name in ("backbone_weights", "learned_parameters")} == {
        name: found.model[name] for name in ("backbone_weights", "learned_parameters")
    }
    labels = [row["label"] for row in rows(run)]
    assert first["counts"] == {
        "rows": 8, "scored": 7, "errors": 1, "normal": labels.count(0), "anomalous": labels.count(1),
    }  # fmt: skip
    text = (run / "runs.jsonl").read_bytes()
    assert main(["relabel", str(run), "--threshold", "0"]) == 0
    again = ["score", str(data / "set"), "--out", str(run), "--class-name", "leather", *MODEL]
    assert main(again) == 2  # no threshold now: refused, and no run
    assert main([*again, "--threshold", "0"]) == 0
    assert main([*again, "--fresh"]) == 0
    assert (run / "runs.jsonl").read_bytes().startswith(text)
    ends = [(one["command"][1], one["threshold"], one["counts"]["anomalous"]) for one in lines(run)]
    assert ends[1:] == [("relabel", 0, 7), ("score", 0, 7), ("score", None, 0)]


def test_an_interrupted_run_has_its_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zsad.inference.writer import RowWriter

    write, run = RowWriter.write, tmp_path / "run"

    def once(self: RowWriter, found: Any) -> None:
        write(self, found)
        raise KeyboardInterrupt

    monkeypatch.setattr(RowWriter, "write", once)
    command = ["score", str(data / "set"), "--out", str(run), "--no-overlays", *MODEL, "--batch-size", "2"]
    assert main(command) != 0
    (line,) = lines(run)
    assert line["end"] == "interrupted"
    assert line["counts"]["rows"] == len(rows(run)) >= 2


def test_the_summary_has_at_most_20_lines_of_80_columns(
    data: Path, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / ("a long name " * 6).strip()
    shutil.copytree(data / "set", folder)
    (folder / "notes.txt").write_text("no picture")
    dark = np.full((90, 120), 40, np.uint16)
    dark[:45] = 900
    Image.fromarray(dark).save(folder / "dark.png")
    monkeypatch.chdir(tmp_path)
    base = ["score", folder.name, "--out", "run", "--calibration", str(card), "--device", "cpu", "--num-workers", "0"]
    assert main([*base, "--relative", "--fdr", "0.1"]) == 0
    captured = capsys.readouterr()
    said = (captured.err + captured.out).splitlines()
    assert 8 < len(said) <= 20
    assert max(map(len, said)) <= 80
    worst = max((row for row in rows(tmp_path / "run") if row["score"] is not None), key=lambda row: row["score"])
    assert any(line.rstrip().endswith(worst["path"][-20:]) for line in said)  # the file's name is seen
    assert any(line.startswith("anomalous: ") for line in said)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--map-size", "100"], "--map-size 100 is about --maps"),
        (["--maps", "npy", "--map-size", "0"], "at least 1 pixel, got 0"),
        (["--mm-per-pixel", "-1"], "--mm-per-pixel must be a length above 0, got -1"),
    ],
)
def test_options_that_do_not_fit(
    data: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(data / "set"), "--out", str(tmp_path / "run"), *MODEL, *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
