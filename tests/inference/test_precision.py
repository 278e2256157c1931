"""Half precision through the doors: near float32, and part of what a result came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from zsad import load_model
from zsad.cli.main import main
from zsad.clip import load_clip
from zsad.methods import METHODS
from zsad.synthetic import split_samples

SAMPLES = split_samples("held-out both", 6, 0)
NAMES = sorted(name for name, kind in METHODS.items() if not kind.transductive)


@pytest.mark.filterwarnings("ignore::zsad.methods.trained.UntrainedWarning")
@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_near_float32(name: str) -> None:
    clip = load_clip("zsad-mini")
    images = [sample.image for sample in SAMPLES]
    results = {}
    for precision in ("32", "bf16"):
        model = load_model(name, clip, "untrained", device="cpu", precision=precision)
        assert model.precision == precision
        results[precision] = model.predict(images, "object", size="model")
    assert clip.precision == "32"  # a backbone that was given is copied, not rounded
    assert all(parameter.dtype == torch.float32 for parameter in clip.parameters())
    maps = {key: np.stack([one.anomaly_map for one in found]) for key, found in results.items()}
    assert maps["bf16"].dtype == np.float32
    assert not np.array_equal(maps["bf16"], maps["32"])
    spread = maps["32"].std() or 1.0
    assert np.abs(maps["bf16"] - maps["32"]).mean() < 0.2 * spread


def test_fp16_needs_an_accelerator() -> None:
    with pytest.raises(ValueError, match="precision='fp16' needs an accelerator"):
        load_model("clip", "zsad-mini", device="cpu", precision="fp16")
    with pytest.raises(ValueError, match="precision must be one of"):
        load_model("clip", "zsad-mini", device="cpu", precision="half")  # type: ignore[arg-type]


def test_precision_is_part_of_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    for number, sample in enumerate(SAMPLES[:3]):
        Image.fromarray(sample.image).save(photos / f"{number}.png")
    common = ["score", str(photos), "--method", "clip", "--backbone", "zsad-mini", "--device", "cpu", "--no-overlays"]
    common += ["--out", str(tmp_path / "out")]
    assert main([*common, "--precision", "bf16"]) == 0
    assert json.loads((tmp_path / "out" / "settings.json").read_text(encoding="utf-8"))["precision"] == "bf16"
    assert main(common) == 2  # the rows of another precision are not mixed in
    assert "precision" in capsys.readouterr().err


def test_a_benchmark_cell_in_half_precision(tmp_path: Path) -> None:
    metrics = {}
    for precision in ("32", "bf16"):
        out = tmp_path / precision
        arguments = ["--methods", "clip", "--data", "Synthetic:images=60,classes=[cork]", "--backbone", "zsad-mini"]
        arguments += ["--device", "cpu", "--precision", precision, "--out", str(out)]
        assert main(["benchmark", *arguments]) == 0
        (cell,) = (out / "cells").rglob("*.json")
        content = json.loads(cell.read_text(encoding="utf-8"))
        assert content["run"]["precision"] == precision
        metrics[precision] = content["metrics"], content["backbone"]["sha256"]
    assert metrics["32"][1] == metrics["bf16"][1]  # the same weights, before they are rounded
    assert metrics["bf16"][0]["pixel_auroc"] == pytest.approx(metrics["32"][0]["pixel_auroc"], abs=0.003)
    assert metrics["bf16"][0] != metrics["32"][0]
