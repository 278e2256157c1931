import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.cli.score import main
from zsad.decision import CardError
from zsad.images import ReadOptions, load_picture, load_rgb
from zsad.inference import load_model
from zsad.inference.ahead import Behind, ahead_of, in_batches, one_behind
from zsad.inference.writer import RowWriter, read_rows
from zsad.synthetic import generate

Size = tuple[int, int]


def test_jobs_are_done_in_order_behind_the_caller() -> None:
    behind, done, gate = Behind(), list[int](), threading.Event()
    behind(gate.wait)
    behind(done.append, 1)
    assert done == []  # the caller did not wait
    gate.set()
    for number in range(2, 20):
        behind(done.append, number)
    behind.close()
    assert done == list(range(1, 20))


def test_what_follows_a_failed_job_is_not_done_and_the_failure_is_raised() -> None:
    behind, done = Behind(), list[int]()

    def fail() -> None:
        raise OSError("no space")

    behind(done.append, 1)
    behind(fail)
    with pytest.raises(OSError, match="no space"):
        list(map(partial(behind, done.append), range(2, 20)))
    behind.close()  # the failure is raised once
    assert done == [1]


def test_a_failure_of_the_last_job_is_raised_when_the_work_ends() -> None:
    behind = Behind()
    behind(int, "no number")
    with pytest.raises(ValueError, match="no number"):
        behind.close()


def test_items_are_made_one_ahead_and_none_is_lost_when_the_next_one_fails() -> None:
    made: list[int] = []

    def items(end: Exception | None = None) -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number
        if end is not None:
            raise end

    stream = one_behind(items())
    assert next(stream) == 0
    assert made == [0, 1]
    assert list(stream) == [1, 2, 3, 4]
    got: list[int] = []
    with pytest.raises(OSError, match="gone"):
        got.extend(one_behind(items(OSError("gone"))))
    assert got == [0, 1, 2, 3, 4]
    made.clear()
    assert next(one_behind(items(), late=False)) == 0
    assert made == [0]


def test_order_does_not_depend_on_which_thread_is_ready_first() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number

    assert list(ahead_of(slow_first, range(12), workers=3, ahead=5)) == list(range(12))
    assert list(in_batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


# ---- zsad score


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for number in range(7):
        Image.fromarray(generate("gear", "hole" if number % 2 else "", seed=number).image).save(root / f"{number}.png")
    (root / "3a.png").write_bytes(b"no image")
    return root


def score(pictures: Path, out: Path, *more: str) -> int:
    fixed = ["--method=clip", "--backbone=zsad-mini", "--class-name=gear", "--device=cpu", "--batch-size=3"]
    return main([str(pictures), *fixed, "--out", str(out), *more])


def test_rows_and_heat_maps_are_the_same_bytes_with_and_without_threads(pictures: Path, tmp_path: Path) -> None:
    for workers in ("0", "3"):
        assert score(pictures, tmp_path / workers, "--num-workers", workers) == 0
    own = ("index.html", "runs.jsonl")  # name the folder and the time
    files = sorted(path.relative_to(tmp_path / "0") for path in (tmp_path / "0").rglob("*.*") if path.name not in own)
    assert len(files) > 7
    for name in files:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "3" / name).read_bytes(), name


def test_a_batch_that_cannot_be_written_is_the_first_that_is_missing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = RowWriter.write, list[int]()

    def full(writer: RowWriter, rows: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("No space is left")
        write(writer, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RowWriter, "write", full)
        with pytest.raises(OSError, match="No space is left"):
            score(pictures, tmp_path / "out", "--scale", "fixed", "--num-workers", "2")
    lines = (tmp_path / "out" / "scores.jsonl").read_bytes()
    assert lines.count(b"\n") == 3
    assert score(pictures, tmp_path / "out", "--scale", "fixed") == 0
    assert score(pictures, tmp_path / "whole", "--scale", "fixed") == 0
    assert (tmp_path / "out" / "scores.jsonl").read_bytes() == (tmp_path / "whole" / "scores.jsonl").read_bytes()


# ---- JPEG files decoded small


def photo(path: Path, size: Size, orientation: int = 1) -> Path:
    """A JPEG file of that (height, width) on the disk."""
    picture = Image.fromarray(generate("gear", "hole", seed=3).image).resize(size[::-1], Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, quality=95, exif=exif)
    return path


@pytest.mark.parametrize(
    ("least", "shape"), [(100, (150, 200)), (150, (150, 200)), (151, (300, 400)), (601, (600, 800))]
)
def test_a_photo_is_decoded_as_small_as_both_sides_allow(tmp_path: Path, least: int, shape: Size) -> None:
    path = photo(tmp_path / "large.jpg", (600, 800))
    assert np.asarray(load_picture(path, least=least).image).shape[:2] == shape
    assert load_picture(path, least=least).size == (600, 800)
    assert load_picture(path).source is None
    turned = load_picture(photo(tmp_path / "turned.jpg", (600, 800), orientation=6), least=least)
    assert np.asarray(turned.image).shape[:2] == shape[::-1]
    assert turned.size == (800, 600)


def test_only_jpeg_files_are_decoded_small(tmp_path: Path) -> None:
    load_rgb(photo(tmp_path / "a.jpg", (600, 800))).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png", least=50).image.size == (800, 600)


def test_fast_decode_changes_scores_a_little_and_nothing_else(tmp_path: Path) -> None:
    path = photo(tmp_path / "large.jpg", (1200, 1600))
    whole, fast = (load_model("clip", "zsad-mini", device="cpu", fast_decode=on) for on in (False, True))
    for size in ("model", 96):
        expected, found = whole.predict(path, "gear", size=size), fast.predict(path, "gear", size=size)
        assert found.source_size == (1200, 1600)
        assert found.image.size == expected.image.size
        assert found.pred_score != expected.pred_score  # else the whole file was decoded
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=0.02)
    native = fast.predict(path, "gear")
    assert native.anomaly_map.shape == (1200, 1600)
    assert native.pred_score == whole.predict(path, "gear").pred_score
    with pytest.raises(CardError, match="fast_decode scores smaller ones"):
        fast.use_calibration("nut.card.json")


def test_fast_decode_is_part_of_a_runs_settings(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in" / "large.jpg", (1200, 1600))
    assert score(tmp_path / "in", tmp_path / "out", "--fast-decode") == 0
    (row,) = read_rows(tmp_path / "out")
    assert (row.height, row.width) == (1200, 1600)
    with pytest.raises(ValueError, match=r"'fast_decode': True.* then"):
        score(tmp_path / "in", tmp_path / "out")


def test_limits_hold_for_what_is_decoded_small(tmp_path: Path) -> None:
    path = photo(tmp_path / "large.jpg", (600, 800))
    with pytest.raises(ValueError, match="800 x 600 pixels, more than max_pixels=400000"):
        load_picture(path, ReadOptions(max_pixels=400_000), least=100)
