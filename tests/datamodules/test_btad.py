from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zsad.datamodules import BTAD
from zsad.types import ImageProtocol


@pytest.fixture
def btad(image: Any, mask: Any, tmp_path: Path) -> Path:
    top = "BTech_Dataset_transformed"
    for name, kind, truth in (("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")):
        for i in range(3):
            image(f"{top}/{name}/train/ok/{i:04d}.{kind}")
            image(f"{top}/{name}/test/ok/{i:04d}.{kind}")
        for i in (0, 1, 3):  # the numbers have a gap
            image(f"{top}/{name}/test/ko/{i:04d}.{kind}")
            mask(f"{top}/{name}/ground_truth/ko/{i:04d}.{truth}")
    (tmp_path / top / "01" / "test" / "ko" / "Thumbs.db").write_bytes(b"x")
    return tmp_path


def test_masks_go_by_stem(btad: Path) -> None:
    data = BTAD(btad, counts="ignore", protocol=ImageProtocol(size=14))
    records = data.select()
    assert [(r.class_name, r.label, r.defect) for r in records] == [
        (name, label, ("ok", "ko")[label]) for name in ("01", "02", "03") for label in (0, 0, 0, 1, 1, 1)
    ]
    pairs = [(r.image_path.name, r.mask_path.name) for r in records if r.mask_path is not None]
    assert pairs[:3] == [("0000.bmp", "0000.png"), ("0001.bmp", "0001.png"), ("0003.bmp", "0003.png")]
    assert pairs[-1] == ("0003.bmp", "0003.bmp")
    assert all(data.dataset()[i]["gt_mask"].any() == bool(r.label) for i, r in enumerate(records))


def test_a_number_means_the_class_with_a_leading_zero(btad: Path) -> None:
    assert BTAD(btad, classes=[2], counts="ignore").class_names == ["02"]
    assert {r.class_name for r in BTAD(btad, classes=["3"], counts="ignore").select()} == {"03"}
    with pytest.raises(ValueError, match="BTAD has no class '04'"):
        BTAD(btad, classes=["4"])


def test_the_copy_with_png_only(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree(classes=("01",), normal="ok", defects=("ko",), suffix="")
    assert [r.label for r in BTAD(tmp_path, counts="ignore").select()] == [0, 0, 0, 1, 1, 1]
