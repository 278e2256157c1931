import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image, ImageShow
from torch import Tensor

import zsad
from zsad.cli.demo.scoring import training_free
from zsad.clip import Clip
from zsad.datamodules import Folder
from zsad.images import ImageError, load_rgb, to_tensor
from zsad.images.overlay import overlay
from zsad.inference import Predictor, Result, ScoreError, Size, find_device, load_model
from zsad.inference.loading import SyntheticModelWarning
from zsad.methods import CLIP, METHODS, AnomalyCLIP, CheckpointError, get_method
from zsad.synthetic import generate
from zsad.types import Batch, Prediction

CLASSES = ("cork", "leather", "coin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of different sizes in two folders, in sorted order 00.png to 09.png."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        sample = generate(CLASSES[number % 3], "scratch" if number % 2 else "", seed=number)
        picture = Image.fromarray(sample.image).resize((96 + 8 * (number % 3), 96 + 4 * (number % 2)))
        path = root / ("a" if number < 5 else "b") / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
    return root


@pytest.fixture(scope="module")
def model() -> Predictor:
    return load_model("clip", "zsad-mini", device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def paths(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def test_three_lines_as_in_the_readme(paths: list[Path]) -> None:
    from zsad import load_model

    result = load_model("clipac", "zsad-mini").predict(paths[0], class_name="cork")
    assert 0 <= result.pred_score <= 1
    assert result.anomaly_map.shape == (96, 96)


def test_every_kind_of_input_gives_the_same_result(model: Predictor, paths: list[Path]) -> None:
    picture = load_rgb(paths[3])
    levels = np.asarray(picture)
    inputs: dict[str, Any] = {
        "text path": str(paths[3]),
        "PIL": picture,
        "uint8": levels,
        "with alpha": np.dstack([levels, np.full(levels.shape[:2], 7, np.uint8)]),
        "int64": levels.astype(np.int64),
        "uint16": levels.astype(np.uint16) * 257,
        "float in [0, 1]": levels / 255.0,
        "float up to 255": levels.astype(np.float32),
        "tensor": torch.from_numpy(levels.copy()).permute(2, 0, 1),
        "float tensor": torch.from_numpy(levels / np.float32(255)).permute(2, 0, 1),
    }
    expected = model.predict(paths[3], "cork")
    for name, x in inputs.items():
        result = model.predict(x, "cork")
        assert isinstance(result, Result), name
        assert result.pred_score == pytest.approx(expected.pred_score, abs=1e-6), name
        np.testing.assert_allclose(result.anomaly_map, expected.anomaly_map, atol=1e-6, err_msg=name)


def test_grey_inputs_of_two_and_three_dimensions_are_the_same_picture(model: Predictor, paths: list[Path]) -> None:
    grey = load_rgb(paths[0]).convert("L")
    levels = np.asarray(grey)
    tensor = torch.from_numpy(levels.copy())
    scores = [model.predict(x).pred_score for x in (grey, levels, levels[..., None], tensor, tensor[None])]
    assert max(scores) - min(scores) < 1e-6


def test_bool_array_is_black_and_white(model: Predictor) -> None:
    mask = np.zeros((32, 32), bool)
    mask[8:20] = True
    result = model.predict(mask)
    np.testing.assert_array_equal(np.asarray(result.image)[..., 0], mask * 255)


def test_many_images_come_as_a_list_or_lazily(model: Predictor, folder: Path, paths: list[Path]) -> None:
    listed = model.predict([str(path) for path in paths], "cork")
    assert isinstance(listed, list)
    walked = model.predict(folder, "cork")
    assert isinstance(walked, Iterator)
    one, two = ([(r.image_path, r.pred_score) for r in results] for results in (listed, walked))
    assert [path for path, _ in one] == [path for path, _ in two] == [str(path) for path in paths]
    np.testing.assert_allclose([score for _, score in one], [score for _, score in two], atol=1e-6)


def test_a_list_may_mix_files_folders_and_pictures(model: Predictor, folder: Path, paths: list[Path]) -> None:
    picture = load_rgb(paths[0])
    results = model.predict([paths[9], folder / "a", picture, np.stack([np.asarray(picture)] * 2)])
    names = [None if r.image_path is None else Path(r.image_path).name for r in results]
    assert names == ["09.png", "00.png", "01.png", "02.png", "03.png", "04.png", None, None, None]
    assert results[-1].pred_score == pytest.approx(results[1].pred_score, abs=1e-6)


def test_batches_of_arrays_and_tensors(model: Predictor, paths: list[Path]) -> None:
    pictures = np.stack([np.asarray(load_rgb(path).resize((96, 96))) for path in paths[:3]])
    for many in (pictures, torch.from_numpy(pictures).permute(0, 3, 1, 2)):
        results = model.predict(many)
        assert len(results) == 3
        for number, result in enumerate(results):
            assert result.pred_score == pytest.approx(model.predict(pictures[number]).pred_score, abs=1e-6)


def test_a_stream_is_read_no_further_than_needed(model: Predictor, paths: list[Path]) -> None:
    taken = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(1)
            yield paths[len(taken) % 10]

    for workers in (0, 2):
        taken.clear()
        stream = model.batches(endless(), "cork", num_workers=workers)
        assert [len(next(stream)), len(next(stream))] == [4, 4]
        assert len(taken) <= 2 * 4 + 4 + 2 * workers
    assert isinstance(next(model.predict(endless())), Result)


@pytest.mark.parametrize("name", list(training_free()))
def test_same_image_same_score_whatever_batch_order_workers_or_trainer(
    name: str, folder: Path, paths: list[Path]
) -> None:
    single = load_model(name, "zsad-mini", device="cpu", batch_size=1)
    expected = {r.image_path: r for r in single.predict(paths, "object", size="model")}
    eight = Predictor(single.method, "cpu", batch_size=8)
    shuffled = [paths[i] for i in (7, 2, 9, 4, 0, 5, 1, 8, 3, 6)]
    found = [r for batch in eight.batches(shuffled, size="model", num_workers=2) for r in batch]
    found += [r for batch in eight.batches(paths, size="model", num_workers=0) for r in batch]
    assert len(found) == 20
    for result in found:
        other = expected[result.image_path]
        assert result.pred_score == pytest.approx(other.pred_score, abs=1e-5)
        np.testing.assert_allclose(result.anomaly_map, other.anomaly_map, atol=1e-5)
    for batch_size, workers in ((8, 0), (3, 2)):
        trainer = Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")
        data = Folder(folder, layout="plain", batch_size=batch_size, num_workers=workers)
        predictions = cast(list[Prediction], trainer.predict(single.method, data))
        scores = torch.cat([prediction.pred_score for prediction in predictions])
        order = [str(record.image_path) for record in data.select("test")]
        assert [expected[path].pred_score for path in order] == pytest.approx(scores.tolist(), abs=1e-5)
        maps = torch.cat([prediction.anomaly_map for prediction in predictions]).numpy()
        np.testing.assert_allclose(np.stack([expected[path].anomaly_map for path in order]), maps, atol=1e-5)


def test_result_equals_the_methods_own_output(model: Predictor, paths: list[Path]) -> None:
    image = to_tensor(load_rgb(paths[2]), model.method.protocol)[None]
    with torch.inference_mode():
        prediction = model.method(image, ["leather"])
    result = model.predict(paths[2], "leather", size="model")
    assert result.pred_score == pytest.approx(prediction.pred_score.item(), abs=1e-6)
    np.testing.assert_allclose(result.anomaly_map, prediction.anomaly_map[0].numpy(), atol=1e-6)


def test_size_of_map_and_picture(model: Predictor, paths: list[Path]) -> None:
    sizes: list[tuple[Size, tuple[int, int]]]
    sizes = [("native", (100, 104)), ("model", (96, 96)), (52, (50, 52)), (500, (100, 104))]
    for size, expected in sizes:
        result = model.predict(paths[1], size=size)
        assert result.anomaly_map.shape == expected
        assert result.image.size == expected[::-1]


def test_asking_for_a_small_picture_leaves_the_callers_alone(model: Predictor) -> None:
    picture = Image.new("RGB", (64, 32))
    assert model.predict(picture, size=16).image.size == (16, 8)
    assert picture.size == (64, 32)


def test_label_needs_a_threshold(model: Predictor, paths: list[Path]) -> None:
    result = model.predict(paths[0])
    assert result.pred_label is None
    score = result.pred_score
    assert model.predict(paths[0], threshold=score - 1e-4).pred_label == 1
    assert model.predict(paths[0], threshold=score + 1e-4).pred_label == 0


def test_repr_tells_what_one_wants_to_know(model: Predictor, paths: list[Path]) -> None:
    shown = repr(model.predict(paths[0], "cork", threshold=2.0))
    assert re.fullmatch(
        r"Result\('.*00\.png', class_name='cork', pred_score=0\.\d{4}, pred_label=0, "
        r"anomaly_map=96x96 in \[0\.\d{4}, 0\.\d{4}\]\)",
        shown,
    )
    assert repr(model) == "Predictor(CLIP, backbone='zsad-mini', image_size=96, device='cpu')"


def test_save_writes_the_overlay_on_the_fixed_scale(model: Predictor, paths: list[Path], tmp_path: Path) -> None:
    result = model.predict(paths[0])
    target = result.save(tmp_path / "new" / "heat.png")
    expected = overlay(result.image, result.anomaly_map, (0.0, 1.0))
    np.testing.assert_array_equal(np.asarray(Image.open(target)), np.asarray(expected))
    own = np.asarray(Image.open(result.save(tmp_path / "own.png", scale="image")))
    assert (own != np.asarray(expected)).any()
    np.testing.assert_array_equal(np.load(result.save(tmp_path / "map.npy")), result.anomaly_map)
    with pytest.raises(ValueError, match=r"its name must end in \.png, \.jpg, another picture format or \.npy"):
        result.save(tmp_path / "heat.doc")


def test_show_opens_a_viewer_or_says_that_there_is_none(
    model: Predictor, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **options: Any) -> int:
            shown.append(image)
            return 1

    result = model.predict(paths[0])
    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    result.show()
    assert shown[0].size == result.image.size
    monkeypatch.setattr(ImageShow, "_viewers", [])
    with pytest.raises(RuntimeError, match="No picture viewer"):
        result.show()


def test_a_notebook_shows_the_overlay(model: Predictor, paths: list[Path]) -> None:
    data = model.predict(paths[0])._repr_png_()
    assert data is not None
    assert data.startswith(b"\x89PNG")


def test_broken_files_among_many_leave_the_others_alone(model: Predictor, paths: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:500])
    missing = tmp_path / "missing.png"
    results = model.predict([paths[0], broken, paths[1], missing, paths[2]])
    assert [result.error is None for result in results] == [True, False, True, False, True]
    assert "broken.png" in results[1].error
    assert "missing.png" in results[3].error
    assert np.isnan(results[1].pred_score)
    assert results[1].pred_label is None
    assert "error=" in repr(results[1])
    assert results[1]._repr_png_() is None
    with pytest.raises(ImageError, match=r"There is no heat map: .*broken\.png"):
        results[1].save(tmp_path / "x.png")
    good = model.predict(paths[:3])
    assert [r.pred_score for r in results if r.error is None] == pytest.approx([r.pred_score for r in good], abs=1e-6)
    for x in (broken, [paths[0], broken]):
        with pytest.raises(ImageError, match=r"broken\.png"):
            model.predict(x, strict=True)
    with pytest.raises(ImageError, match=r"broken\.png"):
        model.predict(broken)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ("no/such/file.png", FileNotFoundError, r"No such file or folder: 'no/such/file\.png'"),
        (42, TypeError, "Cannot predict on int: give a path, a folder, a PIL image"),
        ([42], TypeError, "Cannot predict on int in a list"),
        (np.zeros((3, 8, 8)), ValueError, r"got \(3, 8, 8\); put the channels last"),
        (np.zeros(8), ValueError, r"An array must be \(height, width\)"),
        (np.zeros((0, 8)), ValueError, r"An image needs numbers, got an array of shape \(0, 8\)"),
        (np.full((8, 8), "x"), ValueError, "An image needs numbers"),
        (np.full((8, 8), -0.5), ValueError, r"must lie in \[0, 1\] or \[0, 255\], got -0\.5 to -0\.5"),
        (np.full((8, 8), np.nan), ValueError, "must lie in"),
        (torch.randn(3, 8, 8), ValueError, r"Normalised tensors go straight to the method"),
        (torch.zeros(8, 8, 3), ValueError, r"A tensor must be .* got \(8, 8, 3\)"),
    ],
)
def test_what_is_no_image_is_refused(model: Predictor, x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.predict(x)


class Learned(CLIP):
    """A trained method: CLIP whose scores are shifted by a parameter."""

    def __init__(self, backbone: str | Clip = CLIP.published_backbone, start: float = 0.0, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.shift = torch.nn.Parameter(torch.tensor(start))

    def score(self, image: Tensor, text: Tensor, context: Any) -> Any:
        prediction = super().score(image, text, context)
        return prediction._replace(pred_score=prediction.pred_score + self.shift)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (self.shift - 1) ** 2}


def _checkpoint(method: CLIP, folder: Path, target: Path) -> Path:
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")
    trainer.predict(method, Folder(folder, layout="plain"))
    trainer.save_checkpoint(target)
    return target


def test_checkpoint_brings_back_options_backbone_and_parameters(
    folder: Path, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "learned", Learned)
    method = Learned("zsad-mini", start=3.0, sigma=2.0)
    target = _checkpoint(method, folder, tmp_path / "learned.ckpt")
    back = load_model("learned", checkpoint=target, device="cpu")
    assert back.method.sigma == 2.0
    assert back.method.clip.name == "zsad-mini"
    plain = load_model("clip", "zsad-mini", device="cpu", sigma=2.0)
    assert back.predict(paths[0]).pred_score == pytest.approx(3 + plain.predict(paths[0]).pred_score, abs=1e-5)
    assert load_model("learned", checkpoint=target, device="cpu", sigma=1.0).method.sigma == 1.0


def test_trained_method_without_a_checkpoint_must_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "learned", Learned)
    with pytest.raises(
        ValueError, match=r"Learned learns parameters, and no checkpoint is given.*checkpoint='untrained'"
    ):
        load_model("learned")
    assert isinstance(load_model("learned", "zsad-mini", checkpoint="untrained").method, Learned)


def test_checkpoint_of_another_method_or_of_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    target = _checkpoint(CLIP("zsad-mini"), folder, tmp_path / "clip.ckpt")
    with pytest.raises(CheckpointError, match=r"clip\.ckpt' was written by CLIP, not by CLIPAC"):
        load_model("clipac", checkpoint=target)
    with pytest.raises(FileNotFoundError, match=r"No such checkpoint: 'none\.ckpt'"):
        load_model("clip", checkpoint="none.ckpt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    for name, message in (("other.ckpt", "is not a checkpoint written by"), ("text.ckpt", "cannot be read as a check")):
        with pytest.raises(CheckpointError, match=rf"{name}' {message}"):
            load_model("clip", checkpoint=tmp_path / name)


def test_weights_file_of_a_trained_method_and_the_authors_file(paths: list[Path], tmp_path: Path) -> None:
    model = AnomalyCLIP("zsad-mini", seed=3)
    model.trained_on = {"name": "nothing"}
    with torch.no_grad():
        model.prompts.ctx_normal.add_(0.1)
    image = to_tensor(load_rgb(paths[0]), model.protocol)[None]
    with torch.inference_mode():
        expected = model(image, ["object"]).pred_score.item()
    back = load_model("anomalyclip", checkpoint=model.save_weights(tmp_path / "w.safetensors"), device="cpu")
    assert back.predict(paths[0]).pred_score == pytest.approx(expected, abs=1e-6)
    authors = {"ctx_pos": model.prompts.ctx_normal[None, None], "ctx_neg": model.prompts.ctx_abnormal[None, None]}
    authors |= {f"compound_prompts_text.{n}": tokens for n, tokens in enumerate(model.prompts.deep_tokens)}
    torch.save({"prompt_learner": {name: value.detach() for name, value in authors.items()}}, tmp_path / "epoch_15.pth")
    released = load_model("anomalyclip", "zsad-mini", tmp_path / "epoch_15.pth", device="cpu")
    assert released.predict(paths[0]).pred_score == pytest.approx(expected, abs=1e-6)


def test_published_backbone_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_method("clip"), "published_backbone", "zsad-mini")
    assert load_model("clip", backbone="published").method.clip.name == "zsad-mini"


def test_the_published_backbone_is_the_default_and_the_embedded_one_is_never_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    monkeypatch.setattr("zsad.clip.loading.cached_weights", lambda name: None)
    with pytest.raises(FileNotFoundError, match="Weights 'laion400m_e32' of ViT-B-16-plus-240 are not in the cache"):
        load_model("anovl")
    monkeypatch.undo()
    monkeypatch.setattr(get_method("clip"), "published_backbone", "zsad-mini")
    assert load_model("clip").method.clip.name == "zsad-mini"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown method 'clpi'\. Did you mean 'clip'"):
        load_model("clpi")
    with pytest.raises(TypeError, match=r"CLIP cannot be made with \['sugar'\]"):
        load_model("clip", sugar=1)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0"):
        load_model("clip", "zsad-mini", batch_size=0)
    with pytest.raises(ValueError, match=r"Device 'tpu9' cannot be used"):
        find_device("tpu9")
    with pytest.raises(ValueError, match=r"num_workers must be at least 0, got -1"):
        next(load_model("clip", "zsad-mini").batches([], num_workers=-1))


def test_auto_device_is_the_first_accelerator() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert find_device().type == expected


def test_the_package_offers_them() -> None:
    assert zsad.load_model is load_model
    assert zsad.Result is Result


def test_the_synthetic_model_is_not_taken_without_a_word(tmp_path: Path) -> None:
    weights = AnomalyCLIP("zsad-mini").save_weights(tmp_path / "w.safetensors")
    with pytest.warns(SyntheticModelWarning, match="was trained on 'zsad-mini', which knows synthetic images only"):
        load_model("anomalyclip", checkpoint=weights, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntheticModelWarning)
        load_model("anomalyclip", "zsad-mini", weights, device="cpu")


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_folder_is_a_place_to_save_in(model: Predictor, paths: list[Path], tmp_path: Path, ending: str) -> None:
    target = tmp_path / "heatmaps"
    if not ending:
        target.mkdir()
    written = [result.save(f"{target}{ending}") for result in model.predict(paths[:2], class_name="cork")]
    assert written == [target / "00.png", target / "01.png"]
    assert all(Image.open(path).format == "PNG" for path in written)
    with pytest.raises(ValueError, match="came from memory and has no name"):
        model.predict(Image.open(paths[0])).save(f"{target}/")


# ---- doors of Python


def test_a_class_for_each_image(model: Predictor, paths: list[Path]) -> None:
    names = [CLASSES[number % 3] for number in range(10)]
    results = model.predict(paths, names)
    assert [result.class_name for result in results] == names
    for path, name, result in zip(paths, names, results, strict=True):
        assert result.pred_score == pytest.approx(model.predict(path, name).pred_score, abs=1e-6)
    for wrong in (names[:-1], [*names, "coin"]):
        with pytest.raises(ValueError, match=r"class_name names (9|more) classes"):
            model.predict(paths, wrong)


def test_patterns_and_bytes(model: Predictor, folder: Path, paths: list[Path]) -> None:
    found = [Path(result.image_path).name for result in model.predict(f"{folder}/a/0[12].png")]
    assert found == ["01.png", "02.png"]
    assert len(list(model.predict(f"{folder}/**/*.png"))) == 10
    with pytest.raises(FileNotFoundError, match=r"No file matches the pattern '.*\*\.tif'"):
        model.predict(f"{folder}/*.tif")
    content = paths[0].read_bytes()
    assert model.predict(content).pred_score == pytest.approx(model.predict(paths[0]).pred_score, abs=1e-6)
    assert len(model.predict([content, paths[1]])) == 2
    with pytest.raises(ImageError, match="17 bytes are not the content of an image file; a path is given as text"):
        model.predict(b"photos/first.jpeg")


def test_references_from_folders_paths_patterns_and_pictures(folder: Path, paths: list[Path]) -> None:
    expected = load_model("clip", "zsad-mini", device="cpu")
    expected.method.fit_references("cork", [to_tensor(load_rgb(path), expected.method.protocol) for path in paths[:5]])
    score = expected.predict(paths[7], "cork").pred_score
    assert score != pytest.approx(load_model("clip", "zsad-mini", device="cpu").predict(paths[7], "cork").pred_score)
    pictures = [load_rgb(path) for path in paths[:5]]
    given: list[Any] = [folder / "a", str(folder / "a"), f"{folder}/a/*.png", paths[:5], pictures]
    for images in [*given, np.stack([np.asarray(picture.resize((96, 96))) for picture in pictures])]:
        mine = load_model("clip", "zsad-mini", device="cpu")
        assert mine.fit_references("cork", images) == 5
        if not isinstance(images, np.ndarray):
            assert mine.predict(paths[7], "cork").pred_score == pytest.approx(score, abs=1e-5)
    assert load_model("clip", "zsad-mini", device="cpu").fit_references("cork", folder) == 10  # folders below
    assert mine.fit_references("cork", paths[8]) == 1


def test_references_that_are_not_there(model: Predictor, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"No reference image of class 'cork' in '.*': looked there and in all fol"):
        model.fit_references("cork", tmp_path)
    with pytest.raises(FileNotFoundError):
        model.fit_references("cork", tmp_path / "none")


def test_a_reference_is_not_scored(paths: list[Path]) -> None:
    mine = load_model("clip", "zsad-mini", device="cpu")
    mine.fit_references("cork", paths[:2])
    with pytest.raises(ScoreError, match=r"00\.png' is one of the references of class 'cork'"):
        mine.predict(paths[0], "cork")
    results = mine.predict([*paths[:3], load_rgb(paths[1])], "cork")
    assert [result.error is None for result in results] == [False, False, True, False]
    assert results[0].pred_label is None
    assert np.isnan(results[0].pred_score)


def test_scores_that_are_not_finite_are_errors(paths: list[Path]) -> None:
    mine = load_model("clip", "zsad-mini", device="cpu")
    with torch.no_grad():
        mine.method.clip.model.visual.proj[0, 0] = float("nan")
    with pytest.raises(ScoreError, match=r"00\.png': the score is nan; the model's '.*proj' holds values that are not"):
        mine.predict(paths[0], threshold=0.5)
    assert [result.pred_label for result in mine.predict(paths[:2], threshold=0.5)] == [None, None]
    with pytest.raises(ValueError, match="threshold must be a finite number, got nan"):
        mine.predict(paths[0], threshold=float("nan"))


def test_windows_of_files_and_arrays(model: Predictor, tmp_path: Path, paths: list[Path]) -> None:
    grey = np.asarray(load_rgb(paths[0]).convert("L"))
    deep = np.rint(grey.astype(np.float64) * (4095 / 255)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "12.png")
    right = model.predict(grey).pred_score
    dark = model.predict(tmp_path / "12.png")
    assert dark.warning is not None
    assert dark.fitting_window == (0, 4095)
    for options in ({"bits": 12}, {"window": (0, 4095)}):
        mine = load_model("clip", "zsad-mini", device="cpu", **options)
        for x in (tmp_path / "12.png", deep, (tmp_path / "12.png").read_bytes()):
            assert mine.predict(x).pred_score == pytest.approx(right, abs=1e-5)
        assert mine.predict(tmp_path / "12.png").warning is None
