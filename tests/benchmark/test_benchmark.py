"""The whole way on the generated benchmark: run, kill, resume, check, report."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from zsad.benchmark.report import disagreement
from zsad.benchmark.results import compare, load
from zsad.cli.benchmark import main
from zsad.cli.check import main as check
from zsad.cli.report import main as report
from zsad.clip import Clip
from zsad.datamodules import Synthetic
from zsad.datamodules.base import batches
from zsad.methods import AACLIP, CLIP, VAND
from zsad.training.augment import ColourJitter

DATA = "Synthetic:images=40,classes=[gear,cork],train_images=8"
COMMON = ["--data", DATA, "--backbone", "zsad-mini", "--device", "cpu", "--mode", "exact"]


def metrics(folder: Path) -> dict[str, Any]:
    """Cell -> metrics."""
    return {
        str(path.relative_to(folder)): json.loads(path.read_text(encoding="utf-8")).get("metrics")
        for path in folder.glob("cells/*/*/*.json")
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on two classes."""
    folder = tmp_path_factory.mktemp("results")
    assert main([*COMMON, "--methods", "clip", "maskclip", "--out", str(folder)]) == 0
    return folder


def test_a_cell_says_all_it_came_from(results: Path) -> None:
    cell = json.loads((results / "cells/clip/synthetic/gear-s0.json").read_text(encoding="utf-8"))
    assert {
        "metrics",
        "bounds",
        "counts",
        "images",
        "protocol",
        "hyper_parameters",
        "versions",
        "git",
        "wall_s",
        "device",
    } <= set(cell)
    assert cell["backbone"]["name"] == "zsad-mini"
    assert len(cell["backbone"]["sha256"]) == 64
    assert sum(cell["counts"]) == len(cell["images"])
    assert 0 <= cell["metrics"]["image_auroc"] <= 1
    assert len(list((results / "pictures").glob("clip/synthetic/gear-s0-*.jpg"))) == 3


def test_starting_again_computes_nothing(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in results.glob("cells/*/*/*.json")}
    assert main([*COMMON, "--methods", "clip", "maskclip", "--out", str(results), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {one["file"] for one in said} == set(map(str, before))
    assert all(one["metrics"] == json.loads(Path(one["file"]).read_text("utf-8"))["metrics"] for one in said)
    assert {path: path.stat().st_mtime_ns for path in results.glob("cells/*/*/*.json")} == before


def test_killed_three_times_at_random_gives_the_same_numbers(results: Path, tmp_path: Path) -> None:
    arguments = [*COMMON, "--methods", "clip", "maskclip", "--out", str(tmp_path)]
    code = "import sys; from zsad.cli.benchmark import main; sys.exit(main(sys.argv[1:]))"
    moments = random.Random(0)
    for done in range(3):  # each time after another cell, and then somewhere in the next one
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(metrics(tmp_path)) <= done and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.3 * moments.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert metrics(tmp_path), "nothing was written before the kill"
    assert main(arguments) == 0
    assert metrics(tmp_path) == metrics(results)


def test_a_failing_cell_becomes_a_row_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # without auxiliary data a trained method cannot be trained
    assert main([*COMMON, "--methods", "coop", "clip", "--out", str(tmp_path)]) == 1
    cells = {name: value for name, value in metrics(tmp_path).items()}
    assert sum(value is None for value in cells.values()) == 2
    broken = json.loads((tmp_path / "cells/coop/synthetic/gear-s0.json").read_text(encoding="utf-8"))
    assert "needs auxiliary data" in broken["error"]
    assert "Traceback" in broken["trace"]
    assert report([str(tmp_path)]) == 0
    assert "TrainingDataError" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_trained_method_is_trained_once_and_says_on_what(tmp_path: Path) -> None:
    arguments = [
        *COMMON,
        "--methods",
        "coop",
        "--train",
        "Synthetic:train_images=8",
        "--epochs",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    weights = list((tmp_path / "weights").glob("*.safetensors"))
    assert len(weights) == 1
    cell = json.loads((tmp_path / "cells/coop/synthetic/cork-s0.json").read_text(encoding="utf-8"))
    assert cell["trained"]["file"] == weights[0].name
    assert cell["trained"]["on"][0]["name"] == "synthetic"
    assert cell["trained"]["on"][0]["epochs"] == 1


def test_references_are_drawn_by_the_cells_seed(tmp_path: Path) -> None:
    data = "Synthetic:split=seen,images=52,classes=[wood],train_images=104"
    method = ["--methods", "clip", "clip:shots=1", "--seeds", "0", "1"]
    assert main(["--data", data, *COMMON[2:], *method, "--out", str(tmp_path)]) == 0
    values = {Path(name).parts[1] + Path(name).stem: value["pixel_auroc"] for name, value in metrics(tmp_path).items()}
    assert len(values) == 3  # zero-shot has nothing random
    assert len(set(values.values())) == 3


def test_training_follows_the_published_protocol(tiny: Clip) -> None:
    assert VAND(tiny).published_fit("visa") == (15, {})
    assert VAND(tiny).published_fit("mvtec_ad") == (3, {"stitch": 0.2})
    assert AACLIP(tiny).published_fit("visa") == (5, {})
    epochs, options = AACLIP(tiny, "image").published_fit("visa")
    assert epochs == 15
    assert isinstance(options["augment"], ColourJitter)


def test_check_finds_the_same_numbers_and_a_changed_one(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results / "cells/clip/synthetic/gear-s0.json"
    assert check([str(path), "--device", "cpu"]) == 0
    kept = path.read_text(encoding="utf-8")
    changed = json.loads(kept)
    changed["metrics"]["pixel_auroc"] += 0.01
    path.write_text(json.dumps(changed), encoding="utf-8")
    try:
        assert check([str(path), "--device", "cpu"]) == 1
        assert "different numbers" in capsys.readouterr().out
    finally:
        path.write_text(kept, encoding="utf-8")


def test_check_refuses_what_is_no_cell(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No file"):
        check([str(tmp_path / "x.json")])
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no result"):
        check([str(tmp_path / "x.json")])


def test_report_in_all_formats(results: Path, tmp_path: Path) -> None:
    assert report([str(results), "--out", str(tmp_path), "--resamples", "50"]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    mean = 100 * sum(value["pixel_auroc"] for name, value in metrics(results).items() if "/maskclip/" in name) / 2
    row = next(line for line in text.splitlines() if line.startswith("| maskclip"))
    assert f" {mean:.1f} " in row
    assert "they say nothing about real images" in text
    assert "image_auroc" in (tmp_path / "report.csv").read_text(encoding="utf-8")
    assert r"\begin{tabular}" in (tmp_path / "report.tex").read_text(encoding="utf-8")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<svg" in html
    assert "data:image/jpeg;base64" in html
    assert "http://" not in html
    assert "https://" not in html


def test_report_has_rows_of_classes_and_of_kinds_of_defects(results: Path, tmp_path: Path) -> None:
    assert report([str(results), "--out", str(tmp_path), "--resamples", "20"]) == 0
    cell = json.loads((results / "cells/maskclip/synthetic/gear-s0.json").read_text(encoding="utf-8"))
    kinds = {record.image_path.name: record.defect for record in Synthetic(images=40, classes=["gear"]).select("test")}
    assert cell["defects"] == [kinds[Path(path).name] for path, *_ in cell["images"]]
    with (tmp_path / "report.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    mine = {(one["class"], one["defect"], one["metric"]): one for one in table if one["method"] == "maskclip"}
    assert float(mine["gear", "", "aupro"]["ours"]) == pytest.approx(100 * cell["metrics"]["aupro"])
    assert [int(mine["gear", "", "aupro"][side]) for side in ("normal", "anomalous")] == cell["counts"]
    for kind in set(filter(None, cell["defects"])):
        chosen = [
            (label, score)
            for (_, label, score), defect in zip(cell["images"], cell["defects"], strict=True)
            if defect == kind or not label
        ]
        expected = roc_auc_score(*zip(*chosen, strict=True))
        assert float(mine["gear", kind, "image_auroc"]["ours"]) == pytest.approx(100 * expected)
        for suffix in ("md", "tex"):
            text = (tmp_path / f"report.{suffix}").read_text(encoding="utf-8")
            assert re.search(rf"gear (\||&) {kind} \1 2 \1 1 \1 maskclip \1 {100 * expected:.1f} ", text)
    assert re.search(r"\| cork \| 2 \| 2 \| clip \|", (tmp_path / "report.md").read_text(encoding="utf-8"))


def test_report_compares_two_methods(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([str(results), "--compare", "clip", "maskclip", "--resamples", "50"]) == 0
    said = capsys.readouterr().out
    found = compare(load(results), "synthetic", "clip", "maskclip", 50)
    assert f"{100 * found.difference:+.1f} points" in said
    assert f"{100 * found.low:+.1f} to {100 * found.high:+.1f} (8 images)" in said
    with pytest.raises(ValueError, match=r"No method 'maskclp' .*nearest: 'maskclip', all: clip, maskclip"):
        report([str(results), "--compare", "clip", "maskclp"])
    with pytest.raises(ValueError, match=r"No method 'CLIP' .*nearest: 'clip'"):
        report([str(results), "--compare", "CLIP", "maskclip"])


def test_report_writes_curves(results: Path, tmp_path: Path) -> None:
    assert report([str(results), "--out", str(tmp_path), "--resamples", "20", "--curves"]) == 0
    cell = json.loads((results / "cells/clip/synthetic/cork-s0.json").read_text(encoding="utf-8"))
    _, labels, scores = zip(*cell["images"], strict=True)
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    with (tmp_path / "report_curves.csv").open(encoding="utf-8") as file:
        key = ("synthetic", "cork", "image_roc", "clip")
        rows = [row for row in csv.DictReader(file) if (row["data"], row["class"], row["curve"], row["method"]) == key]
    np.testing.assert_allclose([float(row["x"]) for row in rows], false_positive)
    np.testing.assert_allclose([float(row["y"]) for row in rows], true_positive)
    assert "synthetic, cork: image roc curve" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_report_shows_intervals_where_images_were_resampled(tmp_path: Path) -> None:
    assert main([*COMMON, "--methods", "clip", "--bootstrap", "50", "--out", str(tmp_path)]) == 0
    assert report([str(tmp_path), "--resamples", "10"]) == 0
    table = (tmp_path / "report.md").read_text(encoding="utf-8").split("95 % intervals of these means")[1]
    row = next(line for line in table.splitlines() if line.startswith("| clip"))
    assert len(re.findall(r"\d+\.\d to \d+\.\d", row)) == 8
    assert "95 % intervals of these means" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with (tmp_path / "report.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["low"]:
                assert float(line["low"]) <= float(line["ours"]) <= float(line["high"])


def test_report_checks_a_committed_page(results: Path, tmp_path: Path) -> None:
    report([str(results), "--out", str(tmp_path), "--resamples", "20"])
    page = tmp_path / "report.md"
    assert report([str(results), "--check", str(page)]) == 0
    lines = page.read_text(encoding="utf-8")
    row = next(line for line in lines.splitlines() if line.startswith("| clip"))
    number = row.split("|")[2].strip()
    page.write_text(lines.replace(number, f"{float(number) + 2:.1f}", 1), encoding="utf-8")
    assert report([str(results), "--check", str(page)]) == 1


def test_pages_are_compared_by_their_numbers() -> None:
    assert disagreement("| a | 1.0 |", "| a | 1.4 |", 0.5) is None
    assert "1.0 against 1.6" in (disagreement("| a | 1.0 |", "| a | 1.6 |", 0.5) or "")
    assert "line 1" in (disagreement("| a | 1.0 |", "| b | 1.0 |", 0.5) or "")
    assert "lines" in (disagreement("a", "a\nb", 0.5) or "")
    assert disagreement("| a (±1.5) | 1.0 |", "| a (±1.5) | 2.4 |", 0.1) is None  # a row's own tolerance
    assert "1.0 against 2.6" in (disagreement("| a (±1.5) | 1.0 |", "| a (±1.5) | 2.6 |", 0.1) or "")
    assert "1.0 against 1.2" in (
        disagreement("| a (±1.5) | 1.0 |\n| b | 1.0 |", "| a (±1.5) | 1.0 |\n| b | 1.2 |", 0.1) or ""
    )
    assert "line 1" in (disagreement("| a (±1.5) | 1.0 |", "| a (±9.5) | 1.0 |", 0.1) or "")


def test_report_without_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No results below"):
        report([str(tmp_path)])


def test_fused_scores_are_the_papers_rule(results: Path, tmp_path: Path) -> None:
    assert main([*COMMON, "--methods", "clip", "--fuse", "--out", str(tmp_path)]) == 0
    plain, fused = (
        json.loads((folder / "cells/clip/synthetic/cork-s0.json").read_text(encoding="utf-8"))
        for folder in (results, tmp_path)
    )
    assert fused["run"]["fuse"]
    assert not plain["run"]["fuse"]
    assert fused["metrics"]["pixel_auroc"] == plain["metrics"]["pixel_auroc"]
    data = Synthetic(images=40, classes=["cork"], batch_size=8)
    model = CLIP(backbone="zsad-mini")
    data.protocol = model.protocol
    found = [model(batch["image"], batch["class_name"]) for batch in batches(data)]
    maps, scores = (
        np.concatenate([p.anomaly_map.numpy() for p in found]),
        np.concatenate([p.pred_score.numpy() for p in found]),
    )
    peaks = (maps.max(axis=(1, 2)) - maps.min()) / (maps.max() - maps.min())
    expected = 0.5 * peaks + 0.5 * (scores - scores.min()) / (scores.max() - scores.min())
    labels = [one[1] for one in fused["images"]]
    np.testing.assert_allclose([one[2] for one in fused["images"]], expected, atol=1e-5)
    assert fused["metrics"]["image_auroc"] == pytest.approx(roc_auc_score(labels, expected), abs=1e-9)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scores_that_need_the_whole_class_are_made_at_its_end(tmp_path: Path) -> None:
    data = "Synthetic:split=seen,images=52,classes=[wood],train_images=104"
    methods = ["--methods", "vand:shots=1", "vand:shots=1,few_shot_score=class_minmax"]
    training = ["--train", "Synthetic:train_images=8", "--epochs", "1", "--bootstrap", "10"]
    assert main(["--data", data, *COMMON[2:], *methods, *training, "--out", str(tmp_path)]) == 0
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.glob("cells/*/*/*.json"))]
    whole, text = sorted(cells, key=lambda cell: len(cell["method"]["options"]), reverse=True)
    assert whole["metrics"]["pixel_auroc"] == pytest.approx(text["metrics"]["pixel_auroc"], abs=1e-9)
    labels, scores = ([one[column] for one in whole["images"]] for column in (1, 2))
    # twice the score, less the text's, is the place of the map's maximum between the class's extremes
    places = 2 * np.array(scores) - [one[2] for one in text["images"]]
    assert places.min() == pytest.approx(0, abs=1e-6)
    assert places.max() == pytest.approx(1, abs=1e-6)
    assert whole["metrics"]["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert "image_auroc" in text["intervals"]
    assert "image_auroc" not in whole["intervals"]
    assert "pixel_auroc" in whole["intervals"]
