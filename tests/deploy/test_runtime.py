"""The runtime without torch says what the predictor says: pictures, classes, files, engines."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.deploy.exporting import ALONE, CLASSES, REFUSE, run_alone, smooth
from zsad import Predictor, Tiles
from zsad.cli.main import main
from zsad.deploy import Runtime
from zsad.deploy.bundle import BundleError, modules, outside, run_file
from zsad.deploy.engines import EngineError, usable_cores
from zsad.images.pixels import enlarged
from zsad.images.tensors import normalise


@pytest.fixture(scope="module")
def runtime(exported: Path) -> Runtime:
    return Runtime(exported, threads=1)


def test_members_that_a_server_needs(runtime: Runtime) -> None:
    assert runtime.classes == CLASSES
    assert runtime.size == (96, 96)
    assert runtime.meta["format"] == "zsad-export/1"
    pixels = np.stack([runtime.prepare(smooth(seed)) for seed in range(3)])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 3, 96, 96)
    scores, maps = runtime.infer(pixels, np.array([0, 1, 0]))
    assert scores.dtype == maps.dtype == np.float32
    assert scores.shape == (3,)
    assert maps.shape == (3, 96, 96)
    alone, _ = runtime.infer(pixels[1:2], np.array([1]))
    assert alone[0] == pytest.approx(scores[1], abs=1e-6)  # company changes nothing
    assert runtime.index("coin") == 1
    with pytest.raises(ValueError, match=r"'bolt' is not in .*only 'wood', 'coin'.*--class-name 'bolt'"):
        runtime.predict(smooth(1), "bolt")


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"]


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_all_modes_become_equal_pixels(
    runtime: Runtime, predictor_of_export: Predictor, tmp_path: Path, mode: str
) -> None:
    for seed, size in enumerate([(40, 200), (96, 96)]):
        ending = "tif" if mode in {"CMYK", "F", "I;16"} else "jpg" if mode == "YCbCr" else "png"
        picture = smooth(seed, size)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        else:
            picture = picture.convert(mode)
        path = tmp_path / f"{seed}.{ending}"
        picture.save(path)
        got, expected = runtime.predict(path, "wood"), predictor_of_export.predict(path, "wood")
        pixels = torch.from_numpy(runtime.prepare(got.image))
        tensor = predictor_of_export.prepare(expected.image)
        assert torch.equal(normalise(pixels, predictor_of_export.method.protocol), tensor)
        assert got.pred_score == pytest.approx(expected.pred_score, abs=1e-6)
        np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, atol=1e-6)


@pytest.mark.parametrize("size", [(96, 96), (37, 210), (500, 333), (5, 4)])
def test_enlarging_is_torchs(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=(24, 31)).astype(np.float32)
    exact, torchs = (
        F.interpolate(given[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
        for given in (torch.from_numpy(values).double(), torch.from_numpy(values))
    )
    rounding = np.abs(torchs - exact).max()  # of places in single precision, which differs between torch's releases
    assert np.abs(enlarged(values, size) - torchs).max() <= rounding < 1e-5


def test_threads_follow_the_affinity_and_not_the_host(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == 1
    options = Runtime(exported).engine.session.get_session_options()  # type: ignore[attr-defined]
    assert options.intra_op_num_threads == 1
    with pytest.raises(EngineError, match="threads must be at least 1, got 0"):
        Runtime(exported, threads=0)


def test_openvino_computes_in_single_precision(exported: Path, predictor_of_export: Predictor) -> None:
    runtime = Runtime(exported, "openvino", threads=1)
    hint = runtime.engine.compiled.get_property("INFERENCE_PRECISION_HINT")  # type: ignore[attr-defined]
    assert hint.to_string() == "f32"
    for seed in (1, 2):
        got, expected = (one.predict(smooth(seed), "wood").anomaly_map for one in (runtime, predictor_of_export))
        # on processors without bfloat16 this passes whatever the hint is
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.9999


def test_openvino_in_bfloat16_leaves_the_head_alone(exported: Path, predictor_of_export: Predictor) -> None:
    runtime = Runtime(exported, "openvino", threads=1, precision="bf16")
    head = runtime.engine.compiled  # type: ignore[attr-defined]
    assert head.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    got, expected = (one.predict(smooth(4), "coin").anomaly_map for one in (runtime, predictor_of_export))
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.999
    with pytest.raises(EngineError, match="precision 'bf16' is OpenVINO's"):
        Runtime(exported, precision="bf16")


def test_a_missing_engine_is_one_sentence(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"zsad\[onnx\]"):
        Runtime(exported)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"zsad\[openvino\]"):
        Runtime(exported, "openvino")


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def test_score_with_a_folder_writes_the_rows_of_torch(exported: Path, photos: Path, tmp_path: Path) -> None:
    torch_options = ["--method", "anovl", "--backbone", "zsad-mini", "--option", "views=none", "--device", "cpu"]
    common = ["--class-name", "wood", "--threshold", "0.5"]
    assert main(["score", str(photos), "--out", str(tmp_path / "torch"), *torch_options, *common]) == 0
    assert main(["score", str(photos), "--out", str(tmp_path / "onnx"), "--model", str(exported), *common]) == 0
    alike = ("path", "class_name", "label", "error", "width", "height", "bytes", "overlay")
    for expected, got in zip(rows(tmp_path / "torch"), rows(tmp_path / "onnx"), strict=True):
        assert {name: got[name] for name in alike} == {name: expected[name] for name in alike}
        assert got["score"] == pytest.approx(expected["score"], abs=1e-6)
        assert (tmp_path / "onnx" / str(got["overlay"])).is_file()
    settings = json.loads((tmp_path / "onnx" / "settings.json").read_text())
    assert settings["runtime"] == "onnxruntime"


def test_run_py_needs_neither_torch_nor_zsad(
    exported: Path, photos: Path, tmp_path: Path, predictor_of_export: Predictor
) -> None:
    (photos.parent / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "results"
    done = run_alone(
        exported, str(photos), str(photos.parent / "broken.png"), "--out", str(out), "--class-name", "coin"
    )
    assert done.returncode == 0, done.stderr
    assert "4 rows" in done.stdout
    found = {Path(str(row["path"])).name: row for row in rows(out)}
    assert "not an image" in str(found["broken.png"]["error"])
    for path in sorted(photos.glob("*.png")):
        expected = predictor_of_export.predict(path, "coin")
        assert found[path.name]["score"] == pytest.approx(expected.pred_score, abs=1e-6)
        assert (out / str(found[path.name]["overlay"])).is_file()
    with (out / "scores.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    wrong = run_alone(exported, str(photos), "--out", str(tmp_path / "two"), "--class-name", "bolt")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("run.py: error: Class 'bolt' is not in")


def test_the_runtime_inside_another_program_needs_no_torch_either(
    exported: Path, photos: Path, predictor_of_export: Predictor
) -> None:
    script = f"""{REFUSE}
from zsad.deploy import Runtime
print(Runtime(sys.argv[1]).predict(sys.argv[2], "coin").pred_score)
"""
    photo = min(photos.glob("*.png"))
    command = [sys.executable, "-c", script, str(exported), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(predictor_of_export.predict(photo, "coin").pred_score, abs=1e-6)


def test_large_photos_in_tiles(exported: Path, predictor_of_export: Predictor, tmp_path: Path) -> None:
    large, out = tmp_path / "large", tmp_path / "out"
    large.mkdir()
    for seed in range(3):
        smooth(seed, (260, 190)).save(large / f"{seed}.png")
    arguments = ["--model", str(exported), "--class-name", "wood", "--tile", "96", "--maps", "npy"]
    assert main(["score", str(large), "--out", str(out), *arguments]) == 0
    tiled = Predictor(predictor_of_export.method, "cpu", tiles=Tiles(96))
    tiled.keeps_maps = True
    for row in rows(out):
        expected = tiled.predict(str(row["path"]), "wood")
        assert row["score"] == pytest.approx(expected.pred_score, abs=1e-6)
        assert row["tiles"] == expected.tiles
        np.testing.assert_allclose(np.load(out / str(row["map"])), expected.model_map, atol=1e-5)
    assert len(rows(out)) == 3


def test_modules_of_run_py_need_numpy_pillow_and_the_server_only() -> None:
    allowed = {"numpy", "PIL", "starlette", "uvicorn", "python_multipart"}
    for name, source in modules().items():
        assert outside(source) <= allowed, name
    compile(run_file(), "run.py", "exec")


def test_a_module_that_needs_torch_is_found() -> None:
    with pytest.raises(BundleError, match=r"imports (torch|lightning|scipy|numpy|typing_extensions)"):
        modules(("zsad.deploy.exporting",))
    assert outside("import torch\nfrom numpy import array") == {"torch", "numpy"}
    assert "torch" in ALONE


def test_an_exported_model_has_a_card_of_its_own(
    quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for seed in range(20):
        smooth(seed).save(good / f"{seed}.png")
    card = tmp_path / "own.card.json"
    arguments = [str(good), "--model", str(quantized), "--class-name", "wood", "--out", str(card)]
    assert main(["calibrate", *arguments]) == 0
    model = json.loads(card.read_text())["model"]
    assert (model["precision"], model["runtime"]) == ("int8", "onnxruntime")
    result = Runtime(quantized, calibration=card).predict(smooth(200), "wood")
    assert result.p_value is not None
    assert main(["calibrate", *arguments, "--method", "clip"]) == 2
    assert "leave out --method" in capsys.readouterr().err
