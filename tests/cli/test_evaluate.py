"""The command for maps from elsewhere, against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from zsad.cli.main import main


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Four maps and masks of 12 x 10 pixels."""
    rng = np.random.RandomState(0)
    maps = rng.rand(4, 12, 10).astype(np.float32)
    masks = np.zeros((4, 12, 10), dtype=np.uint8)
    masks[1, 2:5, 3:8] = masks[3, 6:9, 1:4] = 255
    maps += 0.3 * (masks > 0)
    for number in range(4):
        for folder in ("maps", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / "maps" / f"{number}.npy", maps[number])
        Image.fromarray(masks[number]).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path / "maps", tmp_path / "masks", maps, masks


def test_values_equal_scikit_learns(
    folders: tuple[Path, Path, np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    maps_dir, masks_dir, maps, masks = folders
    assert main(["evaluate", "--maps", str(maps_dir), "--masks", str(masks_dir), "--mode", "exact", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)["mean"]
    labels = masks.reshape(-1) > 0
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, maps.reshape(-1)), abs=1e-9)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(labels, maps.reshape(-1)), abs=1e-9)
    expected = roc_auc_score([0, 1, 0, 1], maps.reshape(4, -1).max(1))
    assert found["image_auroc"] == pytest.approx(expected, abs=1e-9)


def test_table_and_file(folders: tuple[Path, Path, np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    maps_dir, masks_dir, *_ = folders
    target = maps_dir.parent / "result.json"
    assert main(["evaluate", "--maps", str(maps_dir), "--masks", str(masks_dir), "--json", str(target)]) == 0
    assert "exact to" in capsys.readouterr().out
    assert "aupro" in json.loads(target.read_text(encoding="utf-8"))["mean"]


def test_intervals_at_80_columns_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rng = np.random.RandomState(0)
    for name in ("nut", "a_rather_long_class_name_of_a_product"):
        for folder in ("maps", "masks"):
            (tmp_path / folder / name).mkdir(parents=True)
        for number in range(8):
            mask = np.zeros((12, 10), np.uint8)
            mask[3:7, 2:6] = 255 * (number % 2)
            np.save(tmp_path / "maps" / name / f"{number}.npy", rng.rand(12, 10).astype("f4") + mask / 1000)
            Image.fromarray(mask).save(tmp_path / "masks" / name / f"{number}.png")
    command = ["evaluate", "--maps", str(tmp_path / "maps"), "--masks", str(tmp_path / "masks"), "--mode", "exact"]
    assert main([*command, "--bootstrap", "50"]) == 0
    shown = capsys.readouterr().out
    assert main([*command, "--bootstrap", "50", "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= 80
    words = shown.split()
    for name, values in [*result["per_class"].items(), ("mean", result["mean"])]:
        assert name in words
        for metric, value in values.items():
            low, high = (result["intervals"][name] if name != "mean" else result["mean_intervals"])[metric]
            assert f"{100 * value:.1f}" in words
            assert f"({100 * low:.1f}-{100 * high:.1f})" in words


def test_splits_of_normal_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for number in range(130):
        for folder in ("maps", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        mask = np.zeros((4, 4), np.uint8)
        mask[0, 0] = 255 * (number >= 120)
        np.save(tmp_path / "maps" / f"{number}.npy", rng.random((4, 4)) + 5 * (mask > 0))
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    base = ["evaluate", "--maps", str(tmp_path / "maps"), "--masks", str(tmp_path / "masks"), "--calibration"]
    assert main([*base, "--class-name", "nut"]) == 0
    said = capsys.readouterr().out
    assert "200 random splits of 'nut'" in said
    # half of the 120 normal images calibrate: floor(0.05 * 61) / 61
    (line,) = [line for line in said.splitlines() if "│ 0.05 " in line]
    promised, measured = (float(cell) for cell in line.split("│")[2:4])
    assert promised == pytest.approx(100 * 3 / 61, abs=0.01)
    assert measured == pytest.approx(promised, abs=1)


def test_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--maps", str(tmp_path / "none"), "--masks", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("zsad: error:")
    assert len(error.strip().splitlines()) == 1


def test_curves_as_numbers_and_pictures(folders: tuple[Path, Path, np.ndarray, np.ndarray]) -> None:
    maps_dir, masks_dir, maps, masks = folders
    target = maps_dir.parent / "curves"
    arguments = ["evaluate", "--maps", str(maps_dir), "--masks", str(masks_dir), "--mode", "exact", "--class-name", "c"]
    assert main([*arguments, "--curves", str(target)]) == 0
    curve = json.loads((target / "curves.json").read_text(encoding="utf-8"))["c"]["pixel_roc"]
    area = np.trapezoid(curve["y"], curve["x"])
    assert area == pytest.approx(roc_auc_score(masks.reshape(-1) > 0, maps.reshape(-1)), abs=1e-3)
    pictures = {path.stem for path in target.glob("*.svg")}
    assert pictures == {"image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro"}
