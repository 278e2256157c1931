"""Metrics of folders of maps and masks, as other programs write them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.metrics.scenes import scene
from zsad.images.cells import write_cells
from zsad.metrics import DEFAULT_METRICS, Evaluator, aupro
from zsad.metrics.folder import EvaluationDataError, evaluate_folder, find_items, read_map

METRICS = ("image_auroc", "pixel_auroc", "aupro")


def write_map(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".tiff":
        tifffile.imwrite(path, values)
    else:
        Image.fromarray(np.round(values * 65535).astype(np.uint16)).save(path)


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, mask) if path.suffix == ".npy" else Image.fromarray(mask * 255).save(path)


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """Two classes in MVTec's layout; the first image of each is normal and has no mask."""
    for seed, name in enumerate(("screw", "pill")):
        maps, masks = scene(5, seed=seed)
        for index in range(5):
            kind = "broken" if index else "good"
            write_map(tmp_path / "maps" / name / "test" / kind / f"{index:03}.tiff", maps[index].numpy())
            if index:
                path = tmp_path / "masks" / name / "ground_truth" / kind / f"{index:03}_mask.png"
                write_mask(path, masks[index].numpy())
    return tmp_path


@pytest.mark.parametrize("mode", ["exact", "binned"])
def test_equals_the_evaluator_on_the_arrays(benchmark: Path, mode: Any) -> None:
    result = evaluate_folder(benchmark / "maps", benchmark / "masks", mode=mode, score_range=(0, 1))
    evaluator = Evaluator(mode, (0, 1))
    for seed, name in enumerate(("screw", "pill")):
        maps, masks = scene(5, seed=seed)
        evaluator.update([name] * 5, maps.amax((1, 2)), masks.amax((1, 2)), maps, masks)
    expected = evaluator.compute()
    assert result.per_class.keys() == expected.per_class.keys()
    for name, values in expected.per_class.items():
        assert result.per_class[name] == pytest.approx(values, abs=1e-12)
        assert result.counts[name] == (1, 4)
    assert set(result.mean) == set(DEFAULT_METRICS)


@pytest.mark.parametrize("suffix", [".npy", ".tiff", ".png"])
@pytest.mark.parametrize("mask_suffix", [".png", ".npy", ".bmp"])
def test_formats_of_a_flat_folder(tmp_path: Path, suffix: str, mask_suffix: str) -> None:
    maps, masks = scene(4)
    for index in range(4):
        write_map(tmp_path / "m" / f"x{index}_map{suffix}", maps[index].numpy())
        write_mask(tmp_path / "g" / f"x{index}{mask_suffix}", masks[index].numpy())
    result = evaluate_folder(tmp_path / "m", tmp_path / "g", class_name="bolt", mode="exact", metrics=METRICS)
    levels = maps if suffix != ".png" else (maps.double() * 65535).round()
    assert result.per_class["bolt"]["aupro"] == pytest.approx(aupro(levels, masks).item(), abs=1e-6)
    assert list(evaluate_folder(tmp_path / "m", tmp_path / "g").per_class) == ["m"]


def test_scores_and_labels_from_csv(benchmark: Path) -> None:
    rng = np.random.RandomState(0)
    rows, scores, labels = ["image_path,pred_score,label"], [], []
    for name in ("pill", "screw"):
        for index in range(5):
            score, label = rng.rand(), int(index > 1)
            kind = "broken" if index else "good"
            rows.append(f"data/mvtec/{name}/test/{kind}/{index:03}.png,{score},{label}")
            scores.append(score)
            labels.append(label)
    table = benchmark / "scores.csv"
    table.write_text("\n".join(rows), encoding="utf-8")
    result = evaluate_folder(benchmark / "maps", benchmark / "masks", table, mode="exact", metrics=METRICS)
    for name, part in (("pill", slice(0, 5)), ("screw", slice(5, 10))):
        assert result.counts[name] == (2, 3)
        expected = roc_auc_score(labels[part], scores[part])
        assert result.per_class[name]["image_auroc"] == pytest.approx(expected, abs=1e-12)


def test_scores_of_files_whose_names_are_formulas(tmp_path: Path) -> None:
    """A table that ``zsad score`` wrote holds such names behind an apostrophe."""
    maps, masks = scene(2)
    names = ["=0", "-1"]
    for index, name in enumerate(names):
        write_map(tmp_path / "m" / f"{name}.npy", maps[index].numpy())
        write_mask(tmp_path / "g" / f"{name}.png", masks[index].numpy())
    with (tmp_path / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        write_cells(
            file, [("path", "score", "label"), *((f"{name}.png", -0.5, label) for label, name in enumerate(names))]
        )
    found = evaluate_folder(tmp_path / "m", tmp_path / "g", tmp_path / "scores.csv", mode="exact")
    assert found.counts["m"] == (1, 1)


def test_resizing(tmp_path: Path) -> None:
    maps, masks = scene(3)
    for index in range(3):
        write_map(tmp_path / "m" / f"{index}.npy", maps[index].numpy())
        large = masks[index].repeat_interleave(2, 0).repeat_interleave(2, 1)
        write_mask(tmp_path / "g" / f"{index}.png", large.numpy())
    with pytest.raises(EvaluationDataError, match=r"0\.npy is \(24, 20\) pixels.*0\.png \(48, 40\): say resize='mask'"):
        evaluate_folder(tmp_path / "m", tmp_path / "g")
    result = evaluate_folder(tmp_path / "m", tmp_path / "g", resize="mask", mode="exact", progress=True)
    assert result.mean["aupro"] == pytest.approx(aupro(maps, masks).item(), abs=1e-12)


def test_float64_maps_are_read_without_loss(tmp_path: Path) -> None:
    values = 1 - np.array([[1e-12, 2e-12], [3e-12, 0]])
    for name in ("a.npy", "a.tiff"):
        write_map(tmp_path / name, values)
        assert torch.equal(read_map(tmp_path / name), torch.from_numpy(values))
    write_map(tmp_path / "b.npy", values.astype(np.float16))
    assert read_map(tmp_path / "b.npy").dtype == torch.float32


def test_missing_masks(benchmark: Path) -> None:
    (benchmark / "masks/pill/ground_truth/broken/003_mask.png").unlink()
    with pytest.raises(EvaluationDataError, match=r"003\.tiff' has no mask 'pill/broken/003'.*missing_mask='normal'"):
        evaluate_folder(benchmark / "maps", benchmark / "masks")
    items = find_items(benchmark / "maps", benchmark / "masks", missing_mask="normal")
    assert [item.key[-1] for item in items if item.mask_path is None] == ["003", "000", "000"]
    with pytest.raises(ValueError, match="'error' or 'normal', got 'skip'"):
        evaluate_folder(benchmark / "maps", benchmark / "masks", missing_mask="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,score\n", "needs a column 'path'; it has no rows"),
        ("path,value\nx.png,1\n", "needs a column 'score'; it has path, value"),
        ("path,score\nx.png,1\n", "no row for 'pill/broken/001'"),
        ("path,score\npill/broken/001.png,1\na/pill/broken/001.png,1\n", "2 rows for 'pill/broken/001'"),
        ("path,score\npill/broken/001.png,high\n", "the row of 'pill/broken/001.png' needs numbers"),
        ("path,score,label\npill/broken/001.png,1,2\n", "must be 0 or 1, got 2"),
    ],
)
def test_scores_that_do_not_fit(benchmark: Path, text: str, message: str) -> None:
    table = benchmark / "scores.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(EvaluationDataError, match=message):
        evaluate_folder(benchmark / "maps", benchmark / "masks", table)


def test_paths_that_do_not_exist(benchmark: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder of maps does not exist"):
        evaluate_folder(benchmark / "none", benchmark / "masks")
    with pytest.raises(FileNotFoundError, match="folder of masks does not exist"):
        evaluate_folder(benchmark / "maps", benchmark / "none")
    with pytest.raises(FileNotFoundError, match="file of scores does not exist"):
        evaluate_folder(benchmark / "maps", benchmark / "masks", benchmark / "none.csv")
    (benchmark / "empty").mkdir()
    with pytest.raises(EvaluationDataError, match=r"No maps under .*expected files with \.npy, \.png"):
        evaluate_folder(benchmark / "empty", benchmark / "masks")


def test_two_maps_of_one_name(benchmark: Path) -> None:
    write_map(benchmark / "maps/pill/broken/001.npy", np.zeros((4, 4)))
    with pytest.raises(EvaluationDataError, match="both are the map of 'pill/broken/001'"):
        evaluate_folder(benchmark / "maps", benchmark / "masks")


@pytest.mark.parametrize("name", ["a.npy", "a.tiff", "a.png"])
def test_broken_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a map")
    with pytest.raises(EvaluationDataError, match=f"Cannot read '.*{name}'"):
        read_map(tmp_path / name)


def test_maps_with_channels_and_bad_masks_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.zeros((4, 4, 3)))
    with pytest.raises(EvaluationDataError, match=r"one number per pixel, got shape \(4, 4, 3\)"):
        read_map(tmp_path / "m.npy")
    maps, masks = tmp_path / "maps", tmp_path / "masks"
    write_map(maps / "x.npy", np.zeros((4, 4)))
    masks.mkdir()
    np.save(masks / "x.npy", np.zeros((2, 4, 4)))
    with pytest.raises(EvaluationDataError, match=r"two dimensions, got shape \(2, 4, 4\)"):
        evaluate_folder(maps, masks)
    (masks / "x.npy").unlink()
    (masks / "x.png").write_bytes(b"not a mask")
    with pytest.raises(EvaluationDataError, match=r"x\.png"):
        evaluate_folder(maps, masks)


def test_nan_in_a_map_names_the_file(benchmark: Path) -> None:
    path = benchmark / "maps/screw/test/broken/002.tiff"
    write_map(path, np.full((24, 20), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"must be finite.*002\.tiff"):
        evaluate_folder(benchmark / "maps", benchmark / "masks")
