"""Where tiles lie and how their maps become one: properties of the weights, and torch's bilinear enlarging."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from zsad.functional.maps import upsample
from zsad.images.tiling import Merge, Tiles, named

SOURCES = [(200, 333), (64, 64), (50, 300), (65, 64), (129, 700), (10, 10)]


def _merged(
    tiles: Tiles,
    source: tuple[int, int],
    size: tuple[int, int],
    of: "np.ndarray[tuple[int, int], np.dtype[np.float32]]",
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """The merged map of tiles whose own maps are cut from a map of the whole picture."""
    merge = Merge(tiles, source, size)
    for left, top, right, bottom in tiles.boxes(source):
        merge.add((left, top, right, bottom), of[top:bottom, left:right])
    return merge.map


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("source", SOURCES)
def test_tiles_cover_every_pixel_and_never_leave_the_picture(source: tuple[int, int], overlap: float) -> None:
    tiles = Tiles(64, overlap, whole=False)
    boxes = tiles.boxes(source)
    met = np.zeros(source, int)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= source[1]
        assert 0 <= top < bottom <= source[0]
        assert right - left == min(64, source[1])
        assert bottom - top == min(64, source[0])
        met[top:bottom, left:right] += 1
    assert met.min() >= 1
    assert len(set(boxes)) == len(boxes)
    lefts = sorted({box[0] for box in boxes})
    steps = np.diff(lefts)
    assert (steps[:-1] == tiles.stride).all()
    assert (steps <= tiles.stride).all()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("size", [None, (100, 90), (31, 401), (3, 4)])
def test_a_constant_map_stays_constant(
    source: tuple[int, int], size: tuple[int, int] | None, overlap: float, whole: bool
) -> None:
    merged = _merged(Tiles(64, overlap, whole), source, size or source, np.full(source, 0.7, np.float32))
    assert np.abs(merged - 0.7).max() < 1e-6


def test_one_tile_is_enlarged_as_torch_does() -> None:
    values = np.random.default_rng(0).random((24, 20), np.float32)
    merge = Merge(Tiles(500), (300, 200), (300, 200))
    merge.add((0, 0, 200, 300), values)
    expected = upsample(torch.from_numpy(values)[None], (300, 200))[0].numpy()
    np.testing.assert_allclose(merge.map, expected, atol=1e-5)


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.7])
def test_there_is_no_seam(overlap: float) -> None:
    """Each tile has another constant, the worst case; a step of the merged map is that of a linear fade at most."""
    source, rng = (300, 470), np.random.default_rng(1)
    merge = Merge(tiles := Tiles(128, overlap, whole=False), source, source)
    for box in tiles.boxes(source):
        merge.add(box, np.full((16, 16), rng.random(), np.float32))
    narrowest = 128 - tiles.stride
    for axis in (0, 1):
        assert np.abs(np.diff(merge.map, axis=axis)).max() < 3 / narrowest


def test_maps_that_agree_merge_without_a_trace() -> None:
    """Maps of tiles as coarse as a model's, cut from one smooth picture, give that picture back."""
    rows, columns = np.mgrid[0:512, 0:700] / 512
    smooth = (np.sin(3 * columns) + np.cos(2 * rows)).astype(np.float32)
    tiles = Tiles(256, 0.25, whole=False)
    merge = Merge(tiles, smooth.shape, smooth.shape)
    for left, top, right, bottom in tiles.boxes(smooth.shape):
        part = torch.from_numpy(smooth[top:bottom, left:right].copy())[None, None]
        merge.add((left, top, right, bottom), torch.nn.functional.avg_pool2d(part, 4)[0, 0].numpy())
    spread = float(np.ptp(smooth))
    second = np.abs(np.diff(merge.map, n=2, axis=1))  # what is left of a slope is the seam
    assert second[:, 2:-2].max() < 1e-3 * spread
    assert np.abs(merge.map - smooth)[4:-4, 4:-4].max() < 5e-3 * spread


def test_whole_and_tiles_count_alike() -> None:
    source = (150, 200)
    merge = Merge(tiles := Tiles(100), source, source)
    whole, *parts = tiles.boxes(source)
    assert whole == (0, 0, 200, 150)
    merge.add(whole, np.full((8, 8), 1.0, np.float32))
    for box in parts:
        merge.add(box, np.full((8, 8), 0.0, np.float32))
    np.testing.assert_allclose(merge.map, 0.5, atol=1e-6)


def test_a_smaller_map_averages_what_the_larger_one_holds() -> None:
    """A single bright spot does not fall between the pixels of an overview."""
    spot = np.zeros((512, 512), np.float32)
    spot[201:204, 301:304] = 1
    tiles = Tiles(128, whole=False)
    small = _merged(tiles, spot.shape, (64, 64), spot)
    place = np.unravel_index(small.argmax(), small.shape)
    assert list(map(int, place)) == [25, 37]
    assert small.sum() * 64 == pytest.approx(9, rel=0.3)


@pytest.mark.parametrize(("score", "expected"), [("max", 0.9), ("mean", 0.5)])
def test_the_score_joins_those_of_the_parts(score: "str", expected: float) -> None:
    assert Tiles(64, score=score).score_of([0.1, 0.9, 0.5]) == pytest.approx(expected)  # type: ignore[arg-type]


def test_map_size_gives_a_tile_the_model_s_own_resolution() -> None:
    assert Tiles(1024).map_size((4096, 2048), 256) == (1024, 512)
    assert Tiles(64).map_size((400, 300), 240) == (400, 300)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 8}, "at least 16 pixels, got 8"),
        ({"size": 64, "overlap": 1.0}, "got 1.0"),
        ({"size": 64, "overlap": -0.1}, "got -0.1"),
        ({"size": 64, "score": "sum"}, "got 'sum'"),
        ({"size": 64, "merge": "max"}, "got 'max'"),
    ],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiles(**wrong)  # type: ignore[arg-type]


def test_a_part_is_called_by_its_place() -> None:
    assert named("a.jpg", (0, 635, 500, 1270)) == "a.jpg#xywh=0,635,500,635"


def test_torch_is_not_needed() -> None:
    code = "import sys, json, zsad.images.tiling; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
