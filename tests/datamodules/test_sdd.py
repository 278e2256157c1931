from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.datamodules import SDD, DatasetCountError, DatasetNotFoundError
from zsad.datamodules.dataset import describe
from zsad.images import load_mask, load_rgb

DEFECTS = {
    "kos01/Part0": None,
    "kos01/Part1": (2, 14, 9, 18),  # across the middle of 31 rows: both halves
    "kos02/Part0": (2, 2, 9, 5),  # top half only
    "kos02/Part1": None,
}


@pytest.fixture
def kolektor(image: Any, mask: Any, tmp_path: Path) -> Path:
    for stem, box in DEFECTS.items():
        image(f"{stem}.jpg", (31, 20), mode="L")
        palette = stem != "kos01/Part1"
        mask(f"{stem}_label.bmp", (31, 20), value=1 if palette else 2, mode="P" if box else "L", box=box)
    image("kos01/kos08/Part0.jpg", (31, 20))  # a stray nested item, as in some copies
    (tmp_path / "readme.txt").write_text("x")
    return tmp_path


def test_halves(kolektor: Path) -> None:
    data = SDD(kolektor, counts="ignore")
    records = data.select()
    assert data.class_names == ["electrical commutators"]
    found = {(r.image_path.relative_to(kolektor).as_posix(), r.box): r.label for r in records}
    top, bottom = (0, 0, 20, 15), (0, 15, 20, 31)  # 31 // 2: the top gets the smaller part
    assert found == {
        ("kos01/Part0.jpg", top): 0,
        ("kos01/Part0.jpg", bottom): 0,
        ("kos01/Part1.jpg", top): 1,
        ("kos01/Part1.jpg", bottom): 1,
        ("kos02/Part0.jpg", top): 1,
        ("kos02/Part0.jpg", bottom): 0,
        ("kos02/Part1.jpg", top): 0,
        ("kos02/Part1.jpg", bottom): 0,
    }
    assert [r.label for r in records] == [0] * 5 + [1] * 3
    assert len({describe(r) for r in records}) == 8


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_pieces_make_up_the_original(kolektor: Path, pieces: int) -> None:
    data = SDD(kolektor, counts="ignore", pieces=pieces)  # type: ignore[arg-type]
    dataset = data.dataset()
    path = kolektor / "kos01" / "Part1.jpg"
    parts = sorted((r for r in data.select() if r.image_path == path), key=lambda r: r.box or (0, 0, 0, 0))
    assert len(parts) == pieces
    read = [dataset.read(record) for record in parts]
    assert np.array_equal(np.concatenate([np.asarray(one[0]) for one in read]), np.asarray(load_rgb(path)))
    rows = [np.zeros((one[0].size[1], 20), bool) if one[1] is None else one[1] for one in read]
    assert np.array_equal(np.concatenate(rows), load_mask(kolektor / "kos01" / "Part1_label.bmp"))


def test_expected_counts_follow_the_recipe(kolektor: Path, tmp_path: Path) -> None:
    for options, numbers in (
        ({}, (731, 67)),
        ({"pieces": 1}, (347, 52)),
        ({"pieces": 3}, (1143, 54)),
        ({"pieces": 3, "normal_fraction": 0.25}, (286, 54)),
    ):
        data = SDD(kolektor, counts="error", **options)
        assert data.expected_counts() == {"electrical commutators": numbers}
        with pytest.raises(DatasetCountError, match=rf"expected {numbers[0]} \+ {numbers[1]}, found"):
            data.select()
    assert SDD(kolektor, normal_fraction=0.5).expected_counts() == {}


def test_a_fraction_of_the_normal_pieces(kolektor: Path) -> None:
    def draw(seed: int) -> list[str]:
        data = SDD(kolektor, counts="ignore", normal_fraction=0.5, seed=seed)
        return [describe(record) for record in data.select() if record.label == 0]

    assert len(draw(0)) == 3  # of 5, rounded up
    assert draw(0) == draw(0)
    assert len({tuple(draw(seed)) for seed in range(10)}) > 1


def test_no_train_part_and_bad_options(kolektor: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="no part 'train'"):
        SDD(kolektor).select("train")
    with pytest.raises(ValueError, match="pieces must be 1, 2 or 3, got 4"):
        SDD(kolektor, pieces=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"normal_fraction must be above 0 and at most 1, got 0"):
        SDD(kolektor, normal_fraction=0)


@pytest.mark.parametrize("folder", ["electrical commutators", "electrical_commutators"])
def test_pre_cut(mvtec_tree: Callable[..., None], tmp_path: Path, folder: str) -> None:
    mvtec_tree(classes=(folder,), defects=("defect",), suffix="")
    for root in (tmp_path, tmp_path / folder):
        data = SDD(root, counts="ignore", classes=["electrical_commutators"])
        assert [(r.class_name, r.label) for r in data.select()] == [
            ("electrical commutators", i // 3) for i in range(6)
        ]
        assert data.expected_counts()["electrical commutators"] == (181, 74)
        assert len(data.select("train")) == 3


def test_labels_are_indices_not_colours(kolektor: Path) -> None:
    path = kolektor / "kos02" / "Part0_label.bmp"
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert np.asarray(picture).max() == 1
    assert load_mask(path).sum() == 21
