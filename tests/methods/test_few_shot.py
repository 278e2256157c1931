"""The few-shot memory: distances, draws, and where references come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from lightning.pytorch import Trainer
from PIL import Image
from sklearn.metrics.pairwise import cosine_distances
from torch import Tensor

from zsad.benchmark.grid import DataSpec, MethodSpec
from zsad.benchmark.run import Options, Runner, cells_of
from zsad.clip import Clip
from zsad.datamodules import Folder
from zsad.images import ImageError, ReadOptions, load_rgb, to_tensor
from zsad.inference import Predictor
from zsad.inference.outcome import ScoreError
from zsad.methods import CLIP, VAND, WinCLIP, get_method, list_methods
from zsad.methods.few_shot import TestedReferenceError, draw
from zsad.methods.memory import Memory, MissingReferencesError


def quiet() -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes with three normal training and one normal and one bad test image each."""
    for number, name in enumerate(("nut", "tile")):
        for index in range(3):
            write(tmp_path / name / "train" / "good" / f"{index}.png", 10 * number + index)
        for index, kind in enumerate(("good", "bad")):
            write(tmp_path / name / "test" / kind / "0.png", 100 + 10 * number + index)
    return tmp_path


def test_distance_is_the_cosine_distance_to_the_nearest_entry_of_the_class() -> None:
    random = torch.Generator().manual_seed(0)
    banks = {name: 3 * torch.randn(2, 5, 8, generator=random) for name in ("nut", "tile")}
    memory = Memory()
    for name, features in banks.items():
        memory.add(name, {"patch": features[:1]})
        memory.add(name, {"patch": features[1:]})
    features = torch.randn(3, 4, 8, generator=random)
    names = ["tile", "nut", "tile"]
    got = memory.distance("patch", features, names)
    for one, name, values in zip(features, names, got, strict=True):
        expected = cosine_distances(one.numpy(), banks[name].flatten(0, 1).numpy()).min(axis=1)
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-6)


def test_equal_features_have_no_negative_distance() -> None:
    features = torch.randn(4, 50, 16, generator=torch.Generator().manual_seed(0))
    memory = Memory()
    memory.add("nut", {"patch": features})
    distance = memory.distance("patch", features, ["nut"] * 4)
    assert 0 <= distance.min() <= distance.max() < 1e-6


def test_a_class_without_references_is_named_once_others_have_some() -> None:
    memory = Memory()
    memory.add("nut", {"patch": torch.randn(1, 2, 4)})
    with pytest.raises(MissingReferencesError, match=r"Class 'tile' has no reference images, but \['nut'\] has"):
        memory.distance("patch", torch.randn(1, 2, 4), ["tile"])


def test_memory_follows_the_device_in_float32_and_is_in_no_checkpoint(tiny: Clip, image: Tensor) -> None:
    model = WinCLIP(Clip(tiny.model, "same"))
    model.fit_references("nut", image[:1])
    model.memory.double()
    assert model.memory.bank("nut", "patch").dtype == torch.float32
    model.memory.to("meta")
    assert model.memory.bank("nut", "patch").device.type == "meta"
    assert model.state_dict() == {}


def test_draws_are_reproducible_nested_and_per_class() -> None:
    for replace in (False, True):
        four = draw(20, 4, 0, "nut", replace)
        assert four == draw(20, 4, 0, "nut", replace)
        assert draw(20, 2, 0, "nut", replace) == four[:2]
        assert four != draw(20, 4, 1, "nut", replace)
        assert four != draw(20, 4, 0, "tile", replace)
    assert sorted(draw(20, 20, 0, "nut")) == list(range(20))
    assert len(set(draw(20, 20, 0, "nut", replace=True))) < 20
    assert draw(20, 0, 0, "nut") == list(range(20))


def test_references_are_drawn_from_the_train_part_when_a_run_starts(tree: Path, tiny: Clip) -> None:
    model = WinCLIP(tiny, shots=2)
    data = Folder(tree, batch_size=4)
    drawn = quiet().predict(model, data)
    assert drawn is not None
    assert model.memory.classes == ["nut", "tile"]
    assert len(model.memory.bank("nut", "patch")) == 2 * 16
    by_hand = WinCLIP(tiny)
    for name in ("nut", "tile"):
        normal = sorted((tree / name / "train" / "good").iterdir())
        chosen = [to_tensor(load_rgb(normal[place]), model.protocol) for place in draw(len(normal), 2, 0, name)]
        by_hand.fit_references(name, chosen)
    expected = quiet().predict(by_hand, data)
    assert expected is not None
    torch.testing.assert_close(drawn[0].anomaly_map, expected[0].anomaly_map, atol=1e-6, rtol=0)  # type: ignore[union-attr]


def test_a_second_run_draws_anew_and_keeps_what_was_given_by_hand(tree: Path, tiny: Clip, image: Tensor) -> None:
    model = WinCLIP(tiny, shots=1)
    model.fit_references("nut", image[:3])
    for _ in range(2):
        quiet().predict(model, Folder(tree))
        assert len(model.memory.bank("nut", "patch")) == 3 * 16
        assert len(model.memory.bank("tile", "patch")) == 16
    model.forget_references()
    assert model.memory.classes == []


def test_references_from_a_folder_need_no_datamodule(tree: Path, tiny: Clip, image: Tensor) -> None:
    flat = WinCLIP(tiny, references=tree / "nut" / "train" / "good")
    flat(image, ["anything"] * 4)
    assert len(flat.memory.bank("anything", "patch")) == 3 * 16
    (tree / "normal").mkdir()
    (tree / "nut" / "train" / "good").rename(tree / "normal" / "nut")
    by_class = WinCLIP(tiny, references=tree / "normal", shots=2)
    by_class(image, ["nut"] * 4)
    assert len(by_class.memory.bank("nut", "patch")) == 2 * 16
    with pytest.raises(
        MissingReferencesError, match=r"Class 'tile': 0 normal images in folder .*normal'.*, needed are 2"
    ):
        by_class(image, ["tile"] * 4)


def test_what_is_missing_is_said(tree: Path, tiny: Clip, image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"shots must be 0 .* got -1"):
        WinCLIP(tiny, shots=-1)
    with pytest.raises(FileNotFoundError, match="No folder of reference images 'nowhere'"):
        WinCLIP(tiny, references="nowhere")
    with pytest.raises(MissingReferencesError, match="shots=2, but there are no reference images"):
        WinCLIP(tiny, shots=2)(image, ["nut"] * 4)
    with pytest.raises(
        MissingReferencesError, match=r"Class 'nut': 3 normal images in the part 'train' .*needed are 4"
    ):
        quiet().predict(WinCLIP(tiny, shots=4), Folder(tree))


def test_a_bad_reference_leaves_the_class_as_it_was(tree: Path, tiny: Clip, image: Tensor) -> None:
    model = WinCLIP(tiny)
    with pytest.raises(ValueError, match=r"shape \(3, height, width\), got \(32, 32\)"):
        model.fit_references("nut", image[0])
    (tree / "nut" / "train" / "good" / "2.png").write_bytes(b"no image")
    model = WinCLIP(tiny, references=tree / "nut" / "train" / "good")
    for _ in range(2):
        with pytest.raises(ImageError, match=r"2\.png"):
            model(image, ["nut"] * 4)
        assert model.memory.classes == []


@torch.no_grad()
def test_any_method_can_be_averaged_with_distances(tiny: Clip, image: Tensor) -> None:
    model, names = CLIP(tiny), ["nut"] * 4
    zero_shot = model(image, names)
    model.fit_references("nut", image[:2])
    fused = model(image, names)
    torch.testing.assert_close(fused.anomaly_map[:2], zero_shot.anomaly_map[:2] / 2, atol=1e-6, rtol=0)
    tokens, _ = tiny.run_image(tiny.embed_image(image))
    patches = tiny.ln_post(tokens[:, 1:])
    bank = patches[:2].flatten(0, 1).numpy()
    expected = np.stack([cosine_distances(one.numpy(), bank).min(axis=1) for one in patches]) / 2
    distance = 2 * fused.pred_score - zero_shot.pred_score
    np.testing.assert_allclose(distance.numpy(), expected.max(axis=1), atol=1e-6)
    assert (2 * fused.anomaly_map - zero_shot.anomaly_map).amax() <= expected.max() + 1e-6
    model.forget_references()
    torch.testing.assert_close(model(image, names), zero_shot, atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore::zsad.methods.trained.UntrainedWarning")
@pytest.mark.parametrize("name", list_methods())
def test_every_method_takes_references(name: str, tree: Path, tiny: Clip) -> None:
    methods = [get_method(name)(tiny, shots=shots) for shots in (0, 1)]
    zero_shot, few_shot = (quiet().predict(model.eval(), Folder(tree, batch_size=8)) for model in methods)
    assert methods[1].memory.classes == ["nut", "tile"]
    assert methods[0].memory.classes == []
    assert not torch.equal(zero_shot[0].anomaly_map, few_shot[0].anomaly_map)  # type: ignore[index, union-attr]
    low, high = methods[1].score_range or (-np.inf, np.inf)
    assert low <= few_shot[0].anomaly_map.min() <= few_shot[0].anomaly_map.max() <= high  # type: ignore[index, union-attr]


@pytest.mark.parametrize("shots", [0, 1])
def test_references_widen_the_declared_range_before_anything_is_evaluated(tree: Path, tiny: Clip, shots: int) -> None:
    model, data = VAND(tiny, shots=shots), Folder(tree, classes=["nut", "tile"])
    data.protocol = model.protocol
    model.draw_references(data)
    highest = len(model.layers) * (3 if shots else 1)  # a layer adds a probability and a cosine distance up to 2
    assert model.score_range == model.evaluator.score_range == (0, highest)


@pytest.mark.parametrize("door", ["test", "validate", "predict", "benchmark"])
@pytest.mark.parametrize("kind", ["copy", "other format"])
def test_a_picture_is_not_both_a_reference_and_tested(tree: Path, tmp_path: Path, door: str, kind: str) -> None:
    source = tree / "nut" / "train" / "good" / "1.png"
    tested = tree / "nut" / "test" / "good" / ("again.png" if kind == "copy" else "again.bmp")
    Image.open(source).save(tested)  # another name and another file: the pixels decide
    data: dict[str, Any] = {"root": tree, "classes": ["nut", "tile"], "counts": "ignore"}
    message = rf"'{tested}' is tested, and the same picture is a normal reference of class 'nut'"
    if door == "benchmark":
        runner = Runner(Options(tmp_path / "out", "zsad-mini", device="cpu"))
        spec = MethodSpec("clip", "clip", {"shots": 3})
        cell = cells_of([spec], [DataSpec("folder", "Folder", data)], [0])[0]
        with pytest.raises(TestedReferenceError, match=message):
            runner.compute(cell)
        return
    model = CLIP(backbone="zsad-mini", shots=3)
    with pytest.raises(TestedReferenceError, match=message):
        getattr(quiet(), door)(model, datamodule=Folder(**data))
    tested.unlink()
    getattr(quiet(), door)(model, datamodule=Folder(**data))


def test_references_that_are_forgotten_may_be_tested(tiny: Clip) -> None:
    model, images = CLIP(tiny), torch.randn(2, 3, 32, 32)
    model.fit_references("nut", images[:1])
    model.refuse_references(images[1:], ["b"])
    close = images[:1].clone()
    close[0, 0, 3, 3] += 0.01  # not one of the pixels that are looked at first
    model.refuse_references(close, ["close"])
    with pytest.raises(TestedReferenceError, match="'a' is tested"):
        model.refuse_references(images.flip(0), ["b", "a"])
    model.forget_references()
    model.refuse_references(images, ["a", "b"])


def test_references_folder_that_holds_the_tested_images_is_refused(tree: Path) -> None:
    model = CLIP(backbone="zsad-mini", references=tree / "nut" / "test" / "good")
    with pytest.raises(TestedReferenceError, match="is tested, and the same picture is a normal reference"):
        quiet().test(model, datamodule=Folder(tree, classes=["nut"]))


def grey(folder: Path, kind: str, number: int = 1) -> list[Path]:
    folder.mkdir(parents=True)
    for seed in range(number):
        levels = np.random.default_rng(seed).integers(0, 4096, (96, 96)).astype(kind)
        tifffile.imwrite(folder / f"{seed}.tif", levels)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", ["uint16", "int16"])
def test_references_are_read_with_the_window_of_what_is_scored(kind: str, tmp_path: Path) -> None:
    """An image that is its own reference is recognised only if both are read alike."""
    [path] = grey(tmp_path / "test" / "good", kind)
    model = CLIP(backbone="zsad-mini", references=path.parent)
    with pytest.raises(ScoreError, match="is one of the references of class 'coin'"):
        Predictor(model, "cpu", reading=ReadOptions(bits=12)).predict(path, "coin")
    model = CLIP(backbone="zsad-mini", references=path.parent)
    with pytest.raises(TestedReferenceError, match="is tested, and the same picture is a normal reference"):
        quiet().test(model, datamodule=Folder(tmp_path, window=(0, 4095)))


def test_panels_are_read_with_the_window_of_what_is_scored(tmp_path: Path) -> None:
    paths = grey(tmp_path / "images", "int16", 4)
    results = Predictor(get_method("musc")(backbone="zsad-mini"), "cpu", reading=ReadOptions(bits=12)).predict(paths)
    levels = [tifffile.imread(path) for path in paths]
    pictures = [Image.fromarray(np.rint(one * (255 / 4095)).astype(np.uint8)).convert("RGB") for one in levels]
    expected = Predictor(get_method("musc")(backbone="zsad-mini"), "cpu").predict(pictures)
    assert [one.error for one in results] == [None] * 4
    assert [one.pred_score for one in results] == pytest.approx([one.pred_score for one in expected], abs=1e-6)
