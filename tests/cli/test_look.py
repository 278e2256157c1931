"""Tiles, products and where to look through ``zsad score`` and ``zsad calibrate``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.cli.main import main
from zsad.cli.score import main as score
from zsad.decision import Card, CardError
from zsad.images.manifest import ManifestError
from zsad.inference import load_model
from zsad.inference.settings import SettingsError
from zsad.synthetic import generate

MINI = ["--method", "clip", "--backbone", "zsad-mini", "--device", "cpu"]
QUICK = ["--no-overlays", "--num-workers", "0"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products in a folder each, 12 good pictures of each."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("cork", "leather"):
        (root / name).mkdir()
        for seed in range(12):
            Image.fromarray(generate(name, seed=seed).image).save(root / name / f"{seed:02d}.png")
    return root


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_product_is_scored_as_what_its_folder_says(photos: Path, tmp_path: Path) -> None:
    assert main(["score", str(photos), "--out", str(tmp_path), *MINI, *QUICK, "--class-name-from", "parent"]) == 0
    rows = _rows(tmp_path)
    assert {(Path(row["path"]).parent.name, row["class_name"]) for row in rows} == {
        ("cork", "cork"), ("leather", "leather")
    }  # fmt: skip
    model = load_model("clip", "zsad-mini", device="cpu")
    for row in (rows[0], rows[-1]):
        assert row["score"] == pytest.approx(model.predict(row["path"], row["class_name"]).pred_score, abs=1e-5)
    assert main(["score", str(photos), "--out", str(tmp_path), *MINI, *QUICK, "--class-name-from", "parent"]) == 0
    assert len(_rows(tmp_path)) == len(rows)
    with pytest.raises(SettingsError, match="class_name"):
        score([str(photos), "--out", str(tmp_path), *MINI, *QUICK, "--class-name", "cork"])


def test_a_pattern_and_a_manifest_name_products_too(photos: Path, tmp_path: Path) -> None:
    pattern = ["--class-name-from", r"/(cork|lea\w+)/0[0-3]"]
    assert main(["score", str(photos), "--out", str(tmp_path / "a"), *MINI, *QUICK, *pattern]) == 0
    found = _rows(tmp_path / "a")
    assert sum(row["error"] is None for row in found) == 8
    assert "finds none in it" in found[4]["error"]
    lines = [
        {"path": f"{photos}/cork/00.png", "class_name": "cork", "roi": "10%,10%,80%,80%"},
        {"path": f"{photos}/leather/00.png", "class_name": "leather"},
        {"path": f"{photos}/leather/nowhere.png"},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert main(["score", str(tmp_path / "list.jsonl"), "--out", str(tmp_path / "b"), *MINI, *QUICK]) == 0
    rows = _rows(tmp_path / "b")
    assert [row["class_name"] for row in rows] == ["cork", "leather", "object"]
    assert [row.get("where") for row in rows] == [{"roi": "10%,10%,80%,80%", "ignore_mask": None}, None, None]
    assert "nowhere.png" in rows[2]["error"]
    same = [row for row in found if row["path"].endswith("leather/00.png")]
    assert rows[1]["score"] == pytest.approx(same[0]["score"], abs=1e-6)
    results = list(load_model("clip", "zsad-mini", device="cpu").predict(tmp_path / "list.jsonl"))
    assert [one.pred_score for one in results[:2]] == pytest.approx([row["score"] for row in rows[:2]], abs=1e-6)


def test_tiles_and_region_stand_in_settings_and_rows(photos: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(96, dtype=bool)).save(mask)
    look = ["--tile", "48", "--tile-overlap", "0.5", "--tile-score", "mean", "--roi", "0,0,100%,50%"]
    command = [str(photos / "cork"), "--out", str(tmp_path / "a"), *MINI, "--num-workers", "2", *look]
    command += ["--exclude", "*/[01][2-9].png", "--scale", "fixed"]
    assert score([*command, "--ignore-mask", str(mask)]) == 0
    settings = json.loads((tmp_path / "a" / "settings.json").read_text(encoding="utf-8"))
    tiles = {"size": 48, "overlap": 0.5, "whole": True, "merge": "mean", "score": "mean"}
    assert settings["tiles"] == tiles
    assert settings["where"]["roi"] == "0,0,100%,50%"
    rows = _rows(tmp_path / "a")
    assert all(row["tiles"] == {**tiles, "n": 4} for row in rows)
    grey = np.asarray(Image.open(tmp_path / "a" / rows[0]["overlay"]).convert("HSV"))[60:, :, 1]
    assert grey.max() < 10
    Image.fromarray(np.eye(96, dtype=bool)[::-1]).save(mask)
    with pytest.raises(SettingsError, match="where"):
        score([*command, "--ignore-mask", str(mask)])


def test_options_without_a_meaning_are_refused(photos: Path, tmp_path: Path) -> None:
    start = [str(photos), "--out", str(tmp_path), *MINI]
    for more, kind, message in (
        (["--tile-score", "map"], ValueError, "--tile-score map needs the size of the tiles"),
        (["--roi", "1,2,3"], ValueError, "X,Y,W,H"),
        (["--class-name-from", "folder"], ValueError, "'folder' has no group"),
        (["--class-name-from", "("], ValueError, r"'\('"),
    ):
        with pytest.raises(kind, match=message):
            score([*start, *more])
    (tmp_path / "list.csv").write_text("file\nx.png\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="line 2 has no path"):
        score([str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"), *MINI])


def test_one_card_for_several_products_in_tiles(photos: Path, tmp_path: Path) -> None:
    card, out = tmp_path / "line.card.json", tmp_path / "out"
    calibrate = ["calibrate", str(photos), "--out", str(card), *MINI, "--alpha", "0.2", "--tile", "64"]
    assert main([*calibrate, "--class-name-from", "parent", "--exclude", "*/1?.png"]) == 0
    made = Card.load(card)
    assert sorted(made.classes) == ["cork", "leather"]
    assert [made.classes[name].calibration.n for name in made.classes] == [10, 10]
    assert made.model["tiles"]["size"] == 64
    judge = ["score", str(photos), "--out", str(out), "--calibration", str(card), "--device", "cpu", *QUICK]
    assert main([*judge, "--class-name-from", "parent", "--exclude", "*/0?.png"]) == 0
    for row in _rows(out):
        assert row["p_value"] == pytest.approx(made.p_value(row["score"], row["class_name"]))
        assert row["tiles"]["size"] == 64
    with pytest.raises(CardError, match=r"no class .(photos|object)."):
        score([str(photos), "--out", str(tmp_path / "other"), "--calibration", str(card), "--device", "cpu"])


def test_a_manifest_says_which_photos_show_one_part(photos: Path, tmp_path: Path) -> None:
    lines = [
        {"path": f"{photos}/cork/{number:02d}.png", "class_name": "cork", "group": f"part {number // 2}"}
        for number in range(12)
    ]
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    card = tmp_path / "cork.card.json"
    assert main(["calibrate", str(tmp_path / "good.jsonl"), "--out", str(card), *MINI, "--alpha", "0.2"]) == 0
    entry = Card.load(card).entry("cork")
    assert entry.calibration.n == 6
    assert entry.groups == {"manifest": "group", "seed": 0}


def test_methods_that_compare_have_a_panel_for_each_product(photos: Path, tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    musc = ["--method", "musc", "--backbone", "zsad-mini", "--device", "cpu", *QUICK, "--exclude", "*/0[5-9].png"]
    names = ["--class-name-from", "parent", "--exclude", "*/1?.png"]
    assert main(["score", str(photos), "--out", str(together), *musc, *names]) == 0
    assert main(["score", str(photos / "leather"), "--out", str(alone), *musc, *names]) == 0
    expected = {Path(row["path"]).name: row["score"] for row in _rows(alone)}
    found = {Path(row["path"]).name: row["score"] for row in _rows(together) if row["class_name"] == "leather"}
    assert found == pytest.approx(expected, abs=1e-5)
    assert (together / "panels" / "cork" / "panel.safetensors").is_file()
