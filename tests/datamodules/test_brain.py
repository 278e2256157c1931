from pathlib import Path
from typing import Any

import pytest

from zsad.datamodules import BenchmarkDataModule, Br35H, BrainMRI, DatasetNotFoundError, HeadCT
from zsad.datamodules.base import batches
from zsad.datamodules.layout import PairingError
from zsad.types import ImageProtocol


@pytest.mark.parametrize("folder", ["head_ct", "head_ct/head_ct"])
def test_headct_with_its_list(image: Any, tmp_path: Path, folder: str) -> None:
    for i in range(4):
        image(f"{folder}/{i:03d}.png", mode="RGBA" if i else "L")
    (tmp_path / "labels.csv").write_text("id, hemorrhage\n0, 1\n1, 0\n2,1\n3, 0\n")
    data = HeadCT(tmp_path, counts="ignore", protocol=ImageProtocol(size=14))
    assert [(r.class_name, r.label, r.image_path.name) for r in data.select()] == [
        ("brain", 0, "001.png"),
        ("brain", 0, "003.png"),
        ("brain", 1, "000.png"),
        ("brain", 1, "002.png"),
    ]
    batch = next(batches(data))
    assert "gt_mask" not in batch
    assert not data.has_masks
    assert data.metrics == ("image_auroc", "image_ap")
    (tmp_path / folder / "003.png").unlink()
    with pytest.raises(PairingError, match=r"differ in the numbers \[3\]"):
        HeadCT(tmp_path).select()
    with pytest.raises(DatasetNotFoundError, match="no part 'train'"):
        HeadCT(tmp_path).select("train")
    (tmp_path / "head_ct").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetNotFoundError, match=r"no head_ct/000\.png"):
        HeadCT(tmp_path).select()


@pytest.mark.parametrize(("top", "other"), [("brain", "hemorrhage"), ("headct", "defect")])
def test_headct_rearranged(image: Any, tmp_path: Path, top: str, other: str) -> None:
    for kind in ("good", other):
        for i in range(2):
            image(f"{top}/test/{kind}/{i}.png")
    data = HeadCT(tmp_path, counts="ignore")
    assert [(r.class_name, r.label, r.defect) for r in data.select()] == [
        ("brain", 0, "good"),
        ("brain", 0, "good"),
        ("brain", 1, other),
        ("brain", 1, other),
    ]


def write_yes_no(image: Any, top: str) -> None:
    for name in ("no/1 no.jpeg", "no/N2.JPG", "yes/Y1.png", "yes/Y2 .jpg"):
        image(f"{top}{name}", mode="L" if "N2" in name else "RGB")


@pytest.mark.parametrize("kind", [BrainMRI, Br35H])
@pytest.mark.parametrize("top", ["", "brain_tumor_dataset/", "archive/"])
def test_yes_and_no(image: Any, tmp_path: Path, kind: type[BenchmarkDataModule], top: str) -> None:
    write_yes_no(image, top)
    image(f"{top}pred/pred0.jpg")
    image(f"{top}Br35H-Mask-RCNN/TRAIN/y1.jpg")
    data = kind(tmp_path, counts="ignore")
    assert [(r.class_name, r.label, r.defect, r.image_path.name) for r in data.select()] == [
        ("brain", 0, "no", "1 no.jpeg"),
        ("brain", 0, "no", "N2.JPG"),
        ("brain", 1, "yes", "Y1.png"),
        ("brain", 1, "yes", "Y2 .jpg"),
    ]
    with pytest.raises(DatasetNotFoundError, match="no part 'train'"):
        data.select("train")


def test_folders_that_are_there_twice_are_read_once(image: Any, tmp_path: Path) -> None:
    write_yes_no(image, "")
    write_yes_no(image, "brain_tumor_dataset/")
    records = BrainMRI(tmp_path, counts="ignore").select()
    assert len(records) == 4
    assert all("brain_tumor_dataset" in str(r.image_path) for r in records)
    with pytest.raises(DatasetNotFoundError, match="folders 'no' and 'yes' not found"):
        BrainMRI(tmp_path / "no").select()
