"""Large images of a data set in tiles, through the Trainer: the same scores and maps as through the predictor."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from zsad.cli.main import main
from zsad.datamodules import Folder
from zsad.images.tiling import Tiles
from zsad.inference import Predictor, load_model
from zsad.methods import CLIP
from zsad.synthetic import generate
from zsad.types import ImageProtocol


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of two sizes, two of them defective, with masks."""
    root = tmp_path_factory.mktemp("large")
    for number in range(4):
        made = generate("cork", "scratch" if number % 2 else "", seed=number)
        size = (300 + 20 * number, 260)
        kind = root / "test" / ("scratch" if number % 2 else "good")
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made.image).resize(size).save(kind / f"{number}.png")
        if number % 2:
            masks = root / "ground_truth" / "scratch"
            masks.mkdir(parents=True, exist_ok=True)
            Image.fromarray(made.mask).resize(size, Image.Resampling.NEAREST).save(masks / f"{number}_mask.png")
    return root


def _tested(root: Path, tiles: Tiles | None) -> tuple[CLIP, dict[str, float]]:
    method = CLIP("zsad-mini")
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    (found,) = trainer.test(method, Folder(root, class_name="cork", batch_size=4, tiles=tiles), verbose=False)
    return method, dict(found)


def test_one_tile_tests_as_no_tiles(root: Path) -> None:
    assert _tested(root, Tiles(1000))[1] == _tested(root, None)[1]


@pytest.mark.parametrize("score", ["max", "map"])
def test_scores_are_those_of_the_predictor(root: Path, score: Literal["max", "map"]) -> None:
    tiles = Tiles(128, score=score)
    method, found = _tested(root, tiles)
    predictor = Predictor(method, "cpu", 4, tiles=tiles)
    for one in method.evaluation.images:
        assert one.pred_score == pytest.approx(predictor.predict(one.image_path, "cork").pred_score, abs=1e-5)
    assert 0 <= found["test/pixel_auroc"] <= 1


def test_masks_have_the_resolution_of_a_tile(root: Path) -> None:
    data = Folder(root, protocol=ImageProtocol(size=64), tiles=Tiles(128))
    sample = data.dataset("test")[0]
    assert sample["gt_mask"].shape == (130, round(sample["source_size"][1].item() / 2))
    assert sample["image"].shape[1:] == (3, 64, 64)
    with pytest.raises(ValueError, match="resize='short_side' are not: take a protocol with 'squash'"):
        Folder(root, protocol=ImageProtocol(resize="short_side"), tiles=Tiles(128)).dataset("test")


def test_the_command_takes_tiles_and_writes_them_down(root: Path, tmp_path: Path) -> None:
    common = ["--data", "Folder", "--data.root", str(root), "--data.class_name", "cork", "--data.tiles.size", "64"]
    model = ["--model", "clip", "--model.backbone", "zsad-mini", "--trainer.accelerator", "cpu"]
    assert main(["predict", *model, *common, "--out", str(tmp_path)]) == 0
    maps = sorted(tmp_path.glob("maps/test/*/*.npy"))
    expected = load_model("clip", "zsad-mini", device="cpu", tiles=Tiles(64))
    result = expected.predict(root / "test" / "good" / "0.png", "cork")
    np.testing.assert_allclose(np.load(maps[0]), result.anomaly_map, atol=1e-5)  # a tile of 64 is below the model's 96
    assert '"tiles": {"size": 64' in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8")


def test_comparing_methods_refuse(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = CLIP("zsad-mini")
    monkeypatch.setattr(CLIP, "transductive", True)
    batch = next(iter(Folder(root, protocol=method.protocol, tiles=Tiles(128)).test_dataloader()))
    with pytest.raises(ValueError, match="test it without tiles"), torch.inference_mode():
        method.predict_step(batch, 0)
