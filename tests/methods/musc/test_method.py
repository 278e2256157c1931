"""MuSc through its panel: who is in it, what it is compared with, what is stored."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import cdist
from torch import Tensor

from tests.conftest import make_clip
from zsad import load_model
from zsad.clip import Clip
from zsad.datamodules import Folder
from zsad.methods import CLIP, MuSc
from zsad.methods.musc import MissingPanelError, Panel, PanelError, SamePixelsWarning
from zsad.methods.musc.method import released_activation
from zsad.methods.musc.panel import divide

PATHS = [f"{number:02d}.png" for number in range(12)]
NAMES = ["nut"] * 12


@pytest.fixture(scope="module")
def folder() -> Tensor:
    """Twelve images that share a picture; the last has a defect."""
    random = torch.Generator().manual_seed(5)
    images = torch.randn(1, 3, 32, 32, generator=random) + 0.5 * torch.randn(12, 3, 32, 32, generator=random)
    images[-1, :, 8:16, 16:24] = torch.randn(3, 8, 8, generator=random)
    return images


def by_definition(clip: Clip, query: Tensor, panel: Tensor, own: int | None, share: float = 0.3) -> np.ndarray:
    """Patch scores of one image from the tower's tokens, in NumPy and SciPy: all blocks of the tiny model, r = 1, 3."""
    with torch.no_grad():
        _, kept = clip.run_image(clip.embed_image(torch.cat([query[None], panel])), keep=(1, 2, 3, 4))
    scores = []
    for state in kept.values():
        tokens = state[:, 1:].double().numpy()
        flat = tokens.reshape(len(tokens), -1)
        tokens = (tokens - flat.mean(axis=1)[:, None, None]) / flat.std(axis=1)[:, None, None]
        for r in (1, 3):
            planes = uniform_filter(tokens.reshape(-1, 4, 4, 32), size=(1, r, r, 1), mode="constant")
            features = planes.reshape(len(tokens), 16, 32)
            features = features / np.linalg.norm(features, axis=-1, keepdims=True)
            others = [one for place, one in enumerate(features[1:]) if place != own]
            nearest = np.sort([cdist(features[0], other).min(axis=1) for other in others], axis=0)
            scores.append(nearest[: max(1, int(share * len(others)))].mean(axis=0))
    return np.mean(scores, axis=0)


def highest(patch_scores: np.ndarray) -> float:
    """The maximum of the enlarged map, which need not lie on a patch's centre."""
    return float(enlarged(patch_scores).max())


def enlarged(patch_scores: np.ndarray) -> Tensor:
    """The map of the tiny model."""
    grid = torch.tensor(patch_scores).view(1, 1, 4, 4)
    return F.interpolate(grid, (32, 32), mode="bilinear", align_corners=True)[0, 0]


def test_images_of_the_panel_are_compared_with_the_others_and_all_else_with_all(tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny, rescore_windows=(0,))
    panel = model.fit_panel("nut", folder[:8], PATHS[:8])
    prediction = model(folder, NAMES, PATHS)
    for row in (0, 7, 8, 11):
        expected = by_definition(tiny, folder[row], folder[:8], row if row < 8 else None)
        torch.testing.assert_close(prediction.anomaly_map[row].double(), enlarged(expected), atol=2e-5, rtol=0)
        assert prediction.pred_score[row] == pytest.approx(highest(expected), abs=2e-5)
    torch.testing.assert_close(prediction.pred_score[:8], panel.maxima, atol=1e-6, rtol=0)


def test_neither_order_nor_company_changes_a_score(tiny: Clip, folder: Tensor) -> None:
    order = [7, 3, 0, 5, 1, 2, 6, 4]
    first, second = MuSc(tiny), MuSc(tiny)
    first.fit_panel("nut", folder[:8], PATHS[:8])
    second.fit_panel("nut", folder[order], [PATHS[place] for place in order])
    whole = first(folder, NAMES, PATHS)
    for part in ([11, 2, 8], [4], [9, 10]):
        got = second(folder[part], ["nut"] * len(part), [PATHS[row] for row in part])
        torch.testing.assert_close(got.anomaly_map, whole.anomaly_map[part], atol=2e-6, rtol=0)
        torch.testing.assert_close(got.pred_score, whole.pred_score[part], atol=2e-6, rtol=0)


def test_the_defect_stands_out(tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny)
    model.fit_panel("nut", folder, PATHS)
    prediction = model(folder, NAMES, PATHS)
    assert int(prediction.pred_score.argmax()) == 11
    row, column = divmod(int(prediction.anomaly_map[11].argmax()), 32)
    assert 4 <= row < 20
    assert 12 <= column < 28


def test_an_image_is_known_by_path_and_pixels(tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny, interval=(0, 1), rescore_windows=(0,))  # the nearest image alone
    panel = model.fit_panel("nut", folder[:8], PATHS[:8])
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamePixelsWarning)
        known = model(folder[:1], ["nut"], ["photos/00.png"]).pred_score  # the end of the path agrees
        other = model(folder[8:9], ["nut"], ["00.png"]).pred_score  # another picture of that name
    assert known.item() == pytest.approx(panel.maxima[0].item(), abs=1e-6)
    assert other.item() == pytest.approx(highest(by_definition(tiny, folder[8], folder[:8], None, share=0)), abs=2e-5)
    for path in ("copy.png", "0", "<image>"):
        with pytest.warns(SamePixelsWarning, match=r"same pixels as '00.png' of the panel"):
            assert model(folder[:1], ["nut"], [path]).anomaly_map.max() < 1e-2  # it found itself


def test_without_paths_no_image_is_one_of_the_panel(tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny)
    model.fit_panel("nut", folder[:8])
    with pytest.warns(SamePixelsWarning, match="same pixels as an image of the panel"):
        model(folder[:1], ["nut"], ["00.png"])


def test_two_files_with_the_same_pixels_count_for_each_other(tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny, interval=(0, 1), rescore_windows=(0,))
    panel = model.fit_panel("nut", folder[[0, 1, 2, 0]], PATHS[:4])
    assert panel.maxima[[0, 3]].max() < 1e-2
    assert panel.maxima[[1, 2]].min() > 0.1


@pytest.mark.parametrize("images", [2, 3, 4])
def test_few_images_have_finite_scores(images: int, tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny)
    panel = model.fit_panel("nut", folder[:images], PATHS[:images])
    prediction = model(folder[:images], NAMES[:images], PATHS[:images])
    assert prediction.pred_score.isfinite().all()
    assert (panel.error is None) == (images < 4)


def test_one_image_cannot_be_scored(tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny)
    with pytest.raises(
        MissingPanelError, match=r"cannot score an image of class 'nut' alone.*fit_panel\('nut', images\)"
    ):
        model(folder[:1], ["nut"])
    with pytest.raises(PanelError, match=r"Class 'nut': a panel of 1 image\(s\) is none.*at least 2"):
        model.fit_panel("nut", folder[:1])
    model.fit_panel("bolt", folder)
    with pytest.raises(MissingPanelError, match=r"there are panels of \['bolt'\]"):
        model(folder[:1], ["nut"])


def test_a_panel_needs_images_of_one_size_and_one_path_each(tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny)
    with pytest.raises(PanelError, match=r"images of one size, got \[\(32, 32\), \(48, 48\)\]"):
        model.fit_panel("nut", [folder[0], torch.zeros(3, 48, 48)])
    with pytest.raises(ValueError, match="3 paths, 2 different ones, for 3 images"):
        model.fit_panel("nut", folder[:3], ["a", "b", "a"])
    with pytest.raises(ValueError, match=r"has the shape \(3, height, width\), got \(32, 32\)"):
        model.fit_panel("nut", folder[0])


@pytest.mark.parametrize("options", [{}, {"storage": "float16"}, {"variant": "v2"}, {"search": 1}], ids=str)
def test_a_saved_panel_gives_the_same_scores(
    options: dict[str, object], tiny: Clip, folder: Tensor, tmp_path: Path
) -> None:
    model, fresh = MuSc(tiny, **options), MuSc(tiny, **options)  # type: ignore[arg-type]
    panel = model.fit_panel("nut", folder[:8], PATHS[:8])
    expected = model(folder, NAMES, PATHS)
    path = model.save_panel(tmp_path / "new" / "panel.safetensors", "nut")
    loaded = fresh.load_panel(path)
    got = fresh(folder, NAMES, PATHS)
    assert torch.equal(got.anomaly_map, expected.anomaly_map)
    assert torch.equal(got.pred_score, expected.pred_score)
    assert (loaded.keys, loaded.hashes, loaded.error, loaded.digest) == (
        panel.keys,
        panel.hashes,
        panel.error,
        panel.digest,
    )
    assert [file.name for file in path.parent.iterdir()] == ["panel.safetensors"]
    assert fresh.load_panel(path, "bolt").class_name == "bolt"
    assert fresh.memory.names == ["bolt", "nut"]


def test_a_file_that_does_not_fit_is_refused(tiny: Clip, folder: Tensor, tmp_path: Path) -> None:
    model = MuSc(tiny)
    model.fit_panel("nut", folder[:8])
    path = model.save_panel(tmp_path / "panel.safetensors", "nut")
    with pytest.raises(
        PanelError, match=r"other settings \(backbone: 'tiny-test-0' then, 'tiny-test-1' now; backbone_"
    ):
        MuSc(make_clip(seed=1)).load_panel(path)
    with pytest.raises(PanelError, match=r"other settings \(layers: \[1, 2, 3, 4\] then, \[2, 4\] now\)"):
        MuSc(tiny, layers=(2, 4)).load_panel(path)
    MuSc(tiny, rescore_windows=(1, 5), panel=3).load_panel(path)  # these do not matter to what is stored
    with pytest.raises(FileNotFoundError, match="No such panel"):
        model.load_panel(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("no panel")
    with pytest.raises(PanelError, match="cannot be read as a panel"):
        model.load_panel(tmp_path / "text.safetensors")
    rounded = make_clip()
    rounded.cast("bf16")
    with pytest.raises(PanelError, match=r"precision: '32' then, 'bf16' now"):
        MuSc(rounded).load_panel(path)
    assert MuSc(rounded).fit_panel("nut", folder[:4]).maxima.isfinite().all()


def test_half_precision_storage_moves_scores_by_little(tiny: Clip, folder: Tensor) -> None:
    scores = []
    for storage in ("float32", "float16"):
        model = MuSc(tiny, storage=storage)
        panel = model.fit_panel("nut", folder[:8], PATHS[:8])
        assert panel.tokens[1].dtype == getattr(torch, storage)
        scores.append(model(folder, NAMES, PATHS).anomaly_map)
    assert 0 < (scores[0] - scores[1]).abs().max() < 1e-3


@pytest.mark.parametrize("options", [{}, {"variant": "v2"}, {"search": 0}, {"storage": "float16"}], ids=str)
def test_a_bound_on_the_memory_changes_nothing_but_rounding(
    options: dict[str, object], tiny: Clip, folder: Tensor
) -> None:
    results = []
    for memory in (4.0, 20e-6, 1e-9):  # everything at once; the table alone; row by row
        model = MuSc(tiny, memory_gb=memory, **options)  # type: ignore[arg-type]
        model.fit_panel("nut", folder[:8], PATHS[:8])
        results.append(model(folder, NAMES, PATHS))
    for one in results[1:]:
        torch.testing.assert_close(one.anomaly_map, results[0].anomaly_map, atol=2e-6, rtol=0)
        torch.testing.assert_close(one.pred_score, results[0].pred_score, atol=2e-6, rtol=0)


def test_the_error_estimate_is_half_the_difference_of_the_halves(tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny)
    panel = model.fit_panel("nut", folder, PATHS)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    maxima = []
    for half in (order[:6].sort().values, order[6:].sort().values):
        values = []
        for row in range(12):
            own = half.tolist().index(row) if row in half else None
            values.append(highest(by_definition(tiny, folder[row], folder[half], own)))
        maxima.append(np.array(values))
    assert panel.error == pytest.approx(np.abs(maxima[0] - maxima[1]).mean() / 2, abs=1e-5)


def test_subsets_of_the_released_rule(tiny: Clip, folder: Tensor) -> None:
    paths = [f"test/{'bad' if number > 7 else 'good'}/{number}.png" for number in range(12)]
    model = MuSc(tiny, subsets="by_folder_name", subset_number=2, subset_seed=3)
    panel = model.fit_panel("nut", folder, paths)
    groups = divide(paths, 2, 3)
    assert sorted(place for group in groups for place in group) == list(range(12))
    assert [sum(place > 7 for place in group) for group in groups] == [2, 2]  # spread over the subsets
    for group in groups:
        alone = MuSc(tiny).fit_panel("nut", folder[group])
        torch.testing.assert_close(panel.patch_scores[group], alone.patch_scores, atol=1e-6, rtol=0)
    with pytest.raises(PanelError, match="only the images that were divided have a score"):
        model(torch.randn(1, 3, 32, 32), ["nut"], ["new.png"])
    with pytest.raises(PanelError, match="give fit_panel paths as well"):
        model.fit_panel("nut", folder)


def test_a_panel_of_normal_references_is_few_shot(tiny: Clip, folder: Tensor) -> None:
    model = MuSc(tiny, rescore_windows=(0,))
    model.fit_references("nut", folder[:1])  # a single reference will do
    expected = by_definition(tiny, folder[5], folder[:1], None)
    assert model(folder[5:6], ["nut"]).pred_score.item() == pytest.approx(highest(expected), abs=2e-5)
    model.fit_references("nut", folder[1:4])  # more are added
    together = MuSc(tiny, rescore_windows=(0,)).fit_panel("nut", folder[:4])
    torch.testing.assert_close(model.panel("nut").patch_scores, together.patch_scores, atol=1e-6, rtol=0)
    model.forget_references()
    assert model.memory.names == []


def test_released_activations() -> None:
    assert released_activation("ViT-L-14-336/openai", None) == "gelu"  # at 518
    assert released_activation("ViT-L-14-336/openai", 336) == "quick_gelu"
    assert released_activation("ViT-B-16/openai", None) == "quick_gelu"
    assert released_activation("ViT-B-16/openai", 512) == "gelu"
    assert released_activation("ViT-B-16-plus-240/laion400m_e31", 240) == "gelu"
    assert released_activation("zsad-mini", None) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (1, 9)}, r"layers must be different blocks of 1 to 4, got \[1, 9\]"),
        ({"r_list": (2,)}, r"r_list must be different odd numbers of patches, got \[2\]"),
        ({"interval": (-0.1, 0.3)}, "interval must be two numbers >= 0"),
        ({"panel": 1}, "panel must be at least 2 images, or None for all, got 1"),
        ({"variant": "v2", "layers": (3,)}, "the last but one of at least 2 layers"),
        ({"variant": "v3"}, "variant must be 'released' or 'v2', got 'v3'"),
        ({"storage": "int8"}, "storage must be 'float32' or 'float16', got 'int8'"),
        ({"rescore_scale": "z"}, "rescore_scale must be 'distance' or 'minmax', got 'z'"),
        ({"search": -1}, "search must be None or a number of patches >= 0, got -1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str, tiny: Clip) -> None:
    with pytest.raises(ValueError, match=message):
        MuSc(tiny, **options)  # type: ignore[arg-type]


# ---- doors


@pytest.fixture
def photos(folder: Tensor, tmp_path: Path) -> Path:
    """The folder as files, two of them unreadable."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    for number, image in enumerate(folder):
        levels = ((image.permute(1, 2, 0) * 40 + 128).clamp(0, 255)).byte().numpy()
        Image.fromarray(levels).save(root / ("more" if number > 8 else "") / PATHS[number])
    for name in ("aa.png", "zz.png"):
        (root / name).write_bytes(b"no image")
    return root


def quiet() -> Trainer:
    """A Trainer that says nothing."""
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def test_a_folder_is_compared_with_itself(tiny: Clip, photos: Path) -> None:
    model = load_model("musc", tiny, device="cpu", batch_size=5)
    results = list(model.predict(photos))
    assert [result.error is None for result in results].count(False) == 2
    panel = model.method.panel("object")  # type: ignore[operator]
    assert panel.keys == [*PATHS[:9], *(f"more/{name}" for name in PATHS[9:])]
    scores = {Path(str(one.image_path)).name: one.pred_score for one in results if one.error is None}
    with pytest.raises(MissingPanelError, match="cannot score an image of class 'bolt' alone"):
        model.predict(photos / PATHS[0], "bolt")
    assert model.predict(photos / PATHS[0]).pred_score == pytest.approx(scores[PATHS[0]], abs=1e-6)
    low, high = model.map_range or (0, 0)
    assert 0 < low < high < 2
    again = list(model.predict([photos / name for name in PATHS[:4]]))  # another folder, another panel
    assert len(model.method.panel("object")) == 4  # type: ignore[operator]
    assert again[0].pred_score != pytest.approx(scores[PATHS[0]], abs=1e-6)


def test_pictures_from_memory_do_not_see_themselves(tiny: Clip, photos: Path) -> None:
    model = load_model("musc", tiny, device="cpu")
    files = [photos / name for name in PATHS[:6]]
    from_files = [one.pred_score for one in model.predict(files)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamePixelsWarning)
        pictures = [one.pred_score for one in model.predict([Image.open(file) for file in files])]
    assert pictures == pytest.approx(from_files, abs=1e-6)


def test_files_and_their_folder_are_the_same_images(tiny: Clip, photos: Path) -> None:
    """A panel of files is known by their whole paths, a folder's images by those below it; nobody sees itself."""
    model = load_model("musc", tiny, device="cpu")
    model.fit_panel(sorted(photos.rglob("*.png")))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamePixelsWarning)
        of_folder, of_files = (
            {one.image_path: one.pred_score for one in model.predict(given) if one.error is None}
            for given in (photos, sorted(photos.rglob("*.png")))
        )
    assert of_folder == of_files
    assert len(of_files) == len(PATHS)


def test_tomorrows_images_meet_todays_panel(tiny: Clip, photos: Path, tmp_path: Path) -> None:
    model = load_model("musc", tiny, device="cpu", panel=8)
    panel = model.fit_panel(photos)
    assert len(panel) == 8
    today = {one.image_path: one.pred_score for one in model.predict(photos)}  # a given panel stays
    assert model.method.panel("object") is panel  # type: ignore[operator]
    file = model.method.save_panel(tmp_path / "panel.safetensors", "object")  # type: ignore[operator]
    later = load_model("musc", tiny, device="cpu", panel=file)
    for path in (photos / PATHS[3], photos / "more" / PATHS[10]):
        assert later.predict(path).pred_score == pytest.approx(today[str(path)], abs=1e-6)
    renamed = later.predict([photos / PATHS[3]], "a nut")[0]  # the class is a name only
    assert renamed.pred_score == pytest.approx(today[str(photos / PATHS[3])], abs=1e-6)
    (batch,) = later.batches([photos / PATHS[3]], "a bolt")
    assert batch[0].pred_score == renamed.pred_score
    with pytest.raises(TypeError, match=r"CLIP cannot be made with \['panel'\]"):
        load_model("clip", tiny, panel=str(file))
    with pytest.raises(PanelError, match=r"CLIP has no panel; of the methods, \['musc'\] have one"):
        load_model("clip", tiny).fit_panel(photos)
    assert not CLIP.transductive


def test_panels_drawn_from_scored_images_give_no_p_value(tiny: Clip, photos: Path, tmp_path: Path) -> None:
    model = load_model("musc", tiny, device="cpu")
    list(model.predict(photos))
    assert "drawn from the scored images" in str(model.method.p_value_obstacle("object"))
    file = model.method.save_panel(tmp_path / "panel.safetensors", "object")  # type: ignore[operator]
    assert load_model("musc", tiny, panel=file).method.p_value_obstacle("object") is None
    assert load_model("clip", tiny).method.p_value_obstacle("object") is None
    assert Panel.load(file).drawn


def test_a_run_draws_a_panel_per_class_and_reads_no_label(tiny: Clip, photos: Path) -> None:
    for name in ("aa.png", "zz.png"):
        (photos / name).unlink()
    model = MuSc(tiny)
    quiet().predict(model, Folder(photos, class_name="nut", batch_size=5))
    first = model.panel("nut")
    assert first.drawn
    assert len(first) == 12
    labelled = photos.parent / "labelled" / "test"
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        target = labelled / ("bad" if number % 2 else "good") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    quiet().test(model, Folder(labelled.parent, class_name="nut", counts="ignore"), verbose=False)
    second = model.panel("nut")
    assert second is not first
    assert sorted(second.hashes) == sorted(first.hashes)
    torch.testing.assert_close(second.maxima.sort().values, first.maxima.sort().values, atol=1e-6, rtol=0)


def test_unreadable_images_are_passed_over_in_the_draw(tiny: Clip, photos: Path) -> None:
    panels = []
    for seed in (0, 0, 1):
        model = MuSc(tiny, panel=5, panel_seed=seed)
        model.draw_references(Folder(photos, class_name="nut", protocol=model.protocol))
        panels.append(model.panel("nut").keys)
    assert panels[0] == panels[1] != panels[2]
    assert all(len(keys) == 5 for keys in panels)
    assert not {"aa.png", "zz.png"} & {key for keys in panels for key in keys}


def test_a_run_without_data_module_and_panel_is_an_error(tiny: Clip, folder: Tensor) -> None:
    batch = {"image": folder[:2], "class_name": NAMES[:2], "image_path": PATHS[:2]}
    with pytest.raises(MissingPanelError, match="run with a data module, or give a panel"):
        quiet().predict(MuSc(tiny), torch.utils.data.DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
