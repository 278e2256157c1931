"""Tiles in the predictor: against the untiled result, against tiles cut by hand, and by what must not matter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.decision import CardError
from zsad.images.tiling import Merge, Tiles, named
from zsad.images.where import Where
from zsad.inference import Predictor, load_model
from zsad.inference.outcome import ScoreError
from zsad.synthetic import generate


@pytest.fixture(scope="module")
def model() -> Predictor:
    return load_model("clip", "zsad-mini", device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Three pictures of different sizes."""
    made = [Image.fromarray(generate("cork", "scratch", seed=seed).image) for seed in range(3)]
    return [one.resize((300 + 50 * number, 260)) for number, one in enumerate(made)]


def _tiled(model: Predictor, tiles: Tiles | None, where: Where | None = None, batch_size: int = 4) -> Predictor:
    return Predictor(model.method, "cpu", batch_size, tiles=tiles, where=where or Where())


def test_a_tile_that_holds_the_picture_is_the_picture(model: Predictor, pictures: list[Image.Image]) -> None:
    for plain, tiled in zip(
        model.predict(pictures, "cork"), _tiled(model, Tiles(400)).predict(pictures, "cork"), strict=True
    ):
        assert tiled.pred_score == plain.pred_score
        np.testing.assert_array_equal(tiled.anomaly_map, plain.anomaly_map)
        assert tiled.tiles is not None
        assert tiled.tiles["n"] == 1


@pytest.mark.parametrize("whole", [True, False])
def test_tiles_are_scored_as_if_they_were_images(model: Predictor, pictures: list[Image.Image], whole: bool) -> None:
    tiles = Tiles(128, whole=whole)
    picture = pictures[0]
    source = (picture.height, picture.width)
    merge, scores = Merge(tiles, source, source), []
    for box in tiles.boxes(source):
        one = model.predict(picture.crop(box), "cork", size="model")
        merge.add(box, one.anomaly_map)
        scores.append(one.pred_score)
    result = _tiled(model, tiles).predict(picture, "cork")
    assert result.pred_score == pytest.approx(max(scores), abs=1e-5)
    np.testing.assert_allclose(result.anomaly_map, merge.map, atol=1e-5)
    mean = _tiled(model, Tiles(128, whole=whole, score="mean")).predict(picture, "cork")
    assert mean.pred_score == pytest.approx(np.mean(scores), abs=1e-5)
    highest = _tiled(model, Tiles(128, whole=whole, score="map")).predict(picture, "cork", size=64)
    assert highest.pred_score == pytest.approx(merge.map.max(), abs=1e-5)
    assert highest.tiles == {**Tiles(128, whole=whole, score="map").identity(), "n": len(scores)}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_what_shares_a_pass_does_not_matter(model: Predictor, pictures: list[Image.Image], batch_size: int) -> None:
    together = _tiled(model, Tiles(128), batch_size=batch_size).predict(pictures, "cork")
    for one, picture in zip(together, pictures, strict=True):
        alone = _tiled(model, Tiles(128)).predict(picture, "cork")
        assert one.pred_score == pytest.approx(alone.pred_score, abs=1e-5)
        np.testing.assert_allclose(one.anomaly_map, alone.anomaly_map, atol=1e-5)


def test_moving_the_picture_by_a_stride_moves_the_map(model: Predictor) -> None:
    wide = Image.fromarray(generate("leather", "scratch", seed=3).image).resize((96 * 7, 128))
    tiles = Tiles(128, 0.25, whole=False)  # stride 96
    first = _tiled(model, tiles).predict(wide.crop((0, 0, 96 * 5 + 32, 128)), "leather")
    moved = _tiled(model, tiles).predict(wide.crop((96, 0, 96 * 6 + 32, 128)), "leather")
    # beyond the first tile of one and before the last of the other, both are made of the same tiles
    np.testing.assert_allclose(first.anomaly_map[:, 96 + 128 : 96 * 5], moved.anomaly_map[:, 128 : 96 * 4], atol=1e-5)


def test_a_smooth_picture_has_no_seam(model: Predictor) -> None:
    """A seam is a step where a tile begins or ends that its neighbours have not."""
    rows, columns = np.mgrid[0:320, 0:320] / 320
    levels = 90 + 60 * np.sin(2 * columns + 1) + 50 * np.cos(1.5 * rows)
    tiles = Tiles(128, whole=False)
    found = _tiled(model, tiles).predict(Image.fromarray(levels.astype(np.uint8)).convert("RGB"), "leather").anomaly_map
    steps = np.diff(found.astype(np.float64), axis=1)
    for start in tiles.starts(320)[1:]:
        for edge in (start, start + 32):  # where a tile begins, where the one before it ends
            seam = np.abs(steps[:, edge - 1] - (steps[:, edge - 2] + steps[:, edge]) / 2)
            assert seam.max() < 1e-3 * (1.0 - 0.0)


def test_seeds_name_the_part(
    model: Predictor, pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures[0].save(path := tmp_path / "photo.png")
    seeds: list[str] = []
    tiled = _tiled(model, tiles := Tiles(128), Where.of("20,10,270,240"))
    before = tiled.launch

    def noted(batch: Sequence[Any]) -> Any:
        seeds.extend(one.seed for one in batch)
        return before(batch)

    monkeypatch.setattr(tiled, "launch", noted)
    tiled.predict([tmp_path], "cork")
    _, *boxes = tiles.boxes((240, 270))
    moved = [(left + 20, top + 10, right + 20, bottom + 10) for left, top, right, bottom in boxes]
    assert seeds == [str(path), *(named(str(path), box) for box in moved)]


def test_a_region_is_scored_as_if_it_were_the_image(model: Predictor, pictures: list[Image.Image]) -> None:
    picture = pictures[1]
    alone = model.predict(picture.crop((35, 26, 315, 234)), "cork")
    for size in ("native", 100):
        result = _tiled(model, None, Where.of("10%,10%,80%,80%")).predict(picture, "cork", size=size)
        assert result.pred_score == alone.pred_score
        assert result.left_out is not None
        assert result.anomaly_map[result.left_out].max() == 0.0
    native = _tiled(model, None, Where.of("10%,10%,80%,80%")).predict(picture, "cork")
    np.testing.assert_array_equal(native.anomaly_map[26:234, 35:315], alone.anomaly_map)
    assert native.where == {"roi": "10%,10%,80%,80%", "ignore_mask": None}
    grey = np.asarray(native.overlay())[:20, :20]
    assert (np.ptp(grey, axis=-1) == 0).all()


@pytest.mark.parametrize("tiles", [None, Tiles(128)])
def test_a_mask_takes_the_score_from_what_is_left(
    model: Predictor, pictures: list[Image.Image], tmp_path: Path, tiles: Tiles | None
) -> None:
    picture = pictures[0]
    whole = _tiled(model, tiles).predict(picture, "cork")
    marked = whole.anomaly_map >= np.quantile(whole.anomaly_map, 0.9)
    Image.fromarray(marked).save(tmp_path / "mask.png")
    masked = _tiled(model, tiles, Where.of(ignore_mask=tmp_path / "mask.png"))
    results = [masked.predict(picture, "cork", size=size) for size in ("native", 64)]
    assert results[0].pred_score == results[1].pred_score == whole.anomaly_map[~marked].max()
    np.testing.assert_array_equal(results[0].anomaly_map, np.where(marked, 0, whole.anomaly_map))


def test_a_mask_that_hides_all_is_an_error_of_that_picture(
    model: Predictor, pictures: list[Image.Image], tmp_path: Path
) -> None:
    Image.new("L", pictures[0].size, 255).save(tmp_path / "mask.png")
    masked = _tiled(model, None, Where.of(ignore_mask=tmp_path / "mask.png"))
    with pytest.raises(ScoreError, match="leaves nothing"):
        masked.predict(pictures[0], "cork")
    hidden, other = masked.predict(pictures[:2], "cork")
    assert "leaves nothing" in str(hidden.error)
    assert "the proportions differ" in str(other.error)


def test_an_unreadable_file_keeps_its_place_among_tiled_ones(
    model: Predictor, pictures: list[Image.Image], tmp_path: Path
) -> None:
    (tmp_path / "1.png").write_bytes(b"no picture")
    for number in (0, 2):
        pictures[number].save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"")
    results = list(_tiled(model, Tiles(128)).predict(tmp_path, "cork"))
    assert [one.error is None for one in results] == [True, False, True, False]
    assert [Path(str(one.image_path)).name for one in results] == ["0.png", "1.png", "2.png", "3.png"]


def test_references_are_cut_alike(pictures: list[Image.Image], tmp_path: Path) -> None:
    """A tile of a reference, moved elsewhere in another picture, is nothing new to tiles."""
    (tmp_path / "good").mkdir()
    pictures[0].save(tmp_path / "good" / "0.png")
    tested = Image.new("RGB", (300, 260), (90, 60, 30))
    tested.paste(pictures[0].crop((172, 132, 300, 260)), (0, 0))
    tiles = Tiles(128, whole=False)
    few = load_model("clip", "zsad-mini", device="cpu", references=tmp_path / "good", tiles=tiles)
    near = few.predict(tested, "cork").anomaly_map
    whole = load_model("clip", "zsad-mini", device="cpu", references=tmp_path / "good").predict(tested, "cork")
    zero = load_model("clip", "zsad-mini", device="cpu", tiles=tiles).predict(tested, "cork").anomaly_map
    corner = (slice(0, 80), slice(0, 80))
    np.testing.assert_allclose(near[corner], zero[corner] / 2, atol=1e-4)  # the mean with a distance of 0
    assert whole.anomaly_map[corner].max() > near[corner].max()
    with pytest.raises(ScoreError, match="is one of the references"):
        few.predict(tmp_path / "good" / "0.png", "cork")


def test_methods_that_compare_pictures_have_no_tiles() -> None:
    with pytest.raises(ValueError, match="MuSc compares each part of a picture"):
        load_model("musc", "zsad-mini", device="cpu", tiles=Tiles(128))


def test_a_card_serves_the_tiles_and_the_place_that_it_was_made_with(
    model: Predictor, pictures: list[Image.Image]
) -> None:
    good = [generate("cork", seed=seed).image for seed in range(20)]
    place = Where.of("10%,10%,80%,80%")
    card = _tiled(model, Tiles(64), place).calibrate(good, "cork", alpha=0.1, regions=True)
    assert card.model["tiles"] == Tiles(64).identity()
    assert card.entry("cork").where == place.identity()
    _tiled(model, Tiles(64), place).use_calibration(card)
    with pytest.raises(CardError, match="tiles"):
        _tiled(model, None, place).use_calibration(card)
    with pytest.raises(CardError, match="tiles"):
        _tiled(model, Tiles(64, score="mean"), place).use_calibration(card)
    elsewhere = _tiled(model, Tiles(64))
    elsewhere.use_calibration(card)
    with pytest.raises(ScoreError, match=r"looking at the region 10%,10%,80%,80%, this image .* the whole picture"):
        elsewhere.predict(pictures[0], "cork")


def test_regions_and_scores_do_not_depend_on_the_size_of_the_result(
    model: Predictor, pictures: list[Image.Image]
) -> None:
    good = [generate("cork", seed=seed).image for seed in range(20)]
    tiled = _tiled(model, Tiles(128))
    tiled.use_calibration(tiled.calibrate(good, "cork", alpha=0.1, regions=True))
    native, small = (tiled.predict(pictures[0], "cork", size=size) for size in ("native", 64))
    assert native.pred_score == small.pred_score
    assert [one.to_json() for one in native.regions()] == [one.to_json() for one in small.regions()]
