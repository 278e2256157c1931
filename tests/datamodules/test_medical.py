"""The medical benchmarks with one class each."""

from pathlib import Path
from typing import Any

import pytest

from zsad.datamodules import (
    CVC300,
    ISIC,
    TN3K,
    BenchmarkDataModule,
    BMADBrain,
    BMADLiver,
    BMADRetina,
    ColonTrain,
    CVCClinicDB,
    CVCColonDB,
    DatasetNotFoundError,
    DataWarning,
    Endo,
    Kvasir,
)
from zsad.datamodules.base import batches
from zsad.datamodules.layout import PairingError
from zsad.images import load_mask
from zsad.types import ImageProtocol


def rows(data: BenchmarkDataModule, split: str = "test") -> list[tuple[Any, ...]]:
    return [(r.class_name, r.label, r.image_path.name, r.mask_path and r.mask_path.name) for r in data.select(split)]


@pytest.mark.parametrize("top", ["", "skin/", "wrapped/"])
@pytest.mark.parametrize("suffix", ["_Segmentation", "_segmentation"])
def test_isic(image: Any, mask: Any, tmp_path: Path, top: str, suffix: str) -> None:
    images = "test/melanoma" if top == "skin/" else "ISBI2016_ISIC_Part1_Test_Data"
    for i in (3, 21):
        image(f"{top}{images}/ISIC_{i:07d}.jpg")
        mask(f"{top}ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_{i:07d}{suffix}.png")
    assert rows(ISIC(tmp_path, counts="ignore")) == [
        ("skin", 1, f"ISIC_{i:07d}.jpg", f"ISIC_{i:07d}{suffix}.png") for i in (3, 21)
    ]
    with pytest.raises(DatasetNotFoundError, match="ISBI2016_ISIC_Part1_Training_Data"):
        ISIC(tmp_path).select("train")


POLYPS = {
    "CVC-ClinicDB": CVCClinicDB,
    "CVC-ColonDB": CVCColonDB,
    "CVC-300": CVC300,
    "Kvasir": Kvasir,
    "EndoTect_2020_Segmentation_Test_Dataset": Endo,
}


def write_polyps(image: Any, mask: Any, folder: str, kind: str = "png", truth: str = "png") -> None:
    for name in ("1", "2", "10"):
        image(f"{folder}/images/{name}.{kind}")
        mask(f"{folder}/masks/{name}.{truth}", mode="RGB" if truth == "png" else "L")


@pytest.mark.parametrize("folder", POLYPS)
@pytest.mark.parametrize("top", ["", "Polyp_DataSet/"])
def test_polyp_sets_find_their_own_folder(image: Any, mask: Any, tmp_path: Path, folder: str, top: str) -> None:
    for other in POLYPS:
        write_polyps(image, mask, f"{top}{other}", "jpg" if "Endo" in other else "png")
    image(f"{top}{folder}/edges/1.png")  # an extra folder, which breaks the published index script
    data = POLYPS[folder](tmp_path, counts="ignore", protocol=ImageProtocol(size=14))
    kind = "jpg" if "Endo" in folder else "png"
    assert rows(data) == [("colon", 1, f"{i}.{kind}", f"{i}.png") for i in (1, 10, 2)]
    assert {r.image_path.parent.parent for r in data.select()} == {tmp_path / f"{top}{folder}"}
    assert load_mask(data.select()[0].mask_path or "").sum() == 60  # RGB, marked in one channel
    assert next(batches(data))["gt_label"].tolist() == [1, 1, 1]
    assert data.metrics == ("pixel_auroc", "aupro")
    itself = POLYPS[folder](tmp_path / f"{top}{folder}", counts="ignore")
    assert rows(itself) == rows(data)
    with pytest.raises(DatasetNotFoundError, match="no part 'train'"):
        data.select("train")


def test_vendor_archives(image: Any, mask: Any, tmp_path: Path) -> None:
    for name in ("1", "2"):
        image(f"Original/{name}.tif")
        mask(f"Ground Truth/{name}.tif")
    assert rows(CVCClinicDB(tmp_path, counts="ignore")) == [("colon", 1, f"{i}.tif", f"{i}.tif") for i in (1, 2)]
    write_polyps(image, mask, "Kvasir-SEG", "jpg", "jpg")
    data = Kvasir(tmp_path / "Kvasir-SEG", counts="ignore", mask_threshold=127)
    lossy = data.select()[0].mask_path
    assert lossy is not None
    assert load_mask(lossy).sum() >= load_mask(lossy, data.mask_threshold).sum() > 0
    (tmp_path / "Kvasir-SEG" / "masks" / "2.jpg").unlink()
    with pytest.raises(PairingError, match=r"images/2\.jpg"):
        Kvasir(tmp_path / "Kvasir-SEG").select()
    with pytest.raises(DatasetNotFoundError, match=r"CVC-ClinicDB/\{Original,Ground Truth\} not found"):
        CVCClinicDB(tmp_path / "Original").select()


def test_tn3k(image: Any, mask: Any, tmp_path: Path) -> None:
    for part in ("test", "trainval"):
        for i in range(2):
            image(f"thyroid/{part}-image/{i:04d}.jpg", mode="L")
            mask(f"thyroid/{part}-mask/{i:04d}.jpg")
    (tmp_path / "thyroid" / "tn3k-trainval-fold0.json").write_text("{}")
    data = TN3K(tmp_path, counts="ignore")
    assert rows(data) == [("thyroid", 1, f"{i:04d}.jpg", f"{i:04d}.jpg") for i in range(2)]
    assert data.select()[0].mask_path == tmp_path / "thyroid/test-mask/0000.jpg"
    assert len(data.select("train")) == 2
    with pytest.raises(DatasetNotFoundError, match="test-image and test-mask"):
        TN3K(tmp_path / "thyroid" / "test-image").select()


@pytest.mark.parametrize(
    ("kind", "folder", "label"),
    [
        (BMADBrain, "Brain_AD", "label"),
        (BMADBrain, "brain", "label"),
        (BMADLiver, "Liver_AD", "anomaly_mask"),
        (BMADRetina, "Retina_RESC_AD", "anomaly_mask"),
    ],
)
def test_bmad(image: Any, mask: Any, tmp_path: Path, kind: type[BenchmarkDataModule], folder: str, label: str) -> None:
    for other in ("Brain_AD", "Liver_AD", "Retina_RESC_AD"):
        if other != folder and not folder.startswith("brain"):
            image(f"{other}/test/good/img/other.png")
            image(f"{other}/test/Ungood/img/other.png")
    for part in ("test", "valid"):
        for i in range(2):
            image(f"{folder}/{part}/good/img/0000{i}_96.png")
            mask(f"{folder}/{part}/good/{label}/0000{i}_96.png", box=None)
            image(f"{folder}/{part}/Ungood/img/0000{i}_60.png")
            mask(f"{folder}/{part}/Ungood/{label}/0000{i}_60.png", value=3)
    image(f"{folder}/train/good/00003_60.png")
    data = kind(tmp_path, counts="ignore")
    name = data.facts.classes[0] if data.facts else ""
    assert rows(data) == [
        (name, 0, "00000_96.png", None),
        (name, 0, "00001_96.png", None),
        (name, 1, "00000_60.png", "00000_60.png"),
        (name, 1, "00001_60.png", "00001_60.png"),
    ]
    assert rows(kind(tmp_path / folder, counts="ignore")) == rows(data)
    assert [row[2] for row in rows(data, "train")] == ["00003_60.png"]
    assert all("valid" in str(r.image_path) for r in data.select("valid"))
    with pytest.raises(DatasetNotFoundError, match=r"test/good and Ungood not found"):
        kind(tmp_path / folder / "valid").select()


def test_colon_train(image: Any, mask: Any, tmp_path: Path) -> None:
    write_polyps(image, mask, "Polyp/CVC-ColonDB")
    for path in ("normal/a/1.jpg", "normal/2.jpg", "normal/3.jpg"):
        image(path)
    (tmp_path / "list.txt").write_text("a/1.jpg\n\n3.jpg\n")
    options: dict[str, Any] = {"root": tmp_path / "Polyp", "normal_root": tmp_path / "normal"}
    data = ColonTrain(**options, counts="ignore", protocol=ImageProtocol(size=14))
    assert [row[:3] for row in rows(data)] == [
        *(("colon", 0, f"{i}.jpg") for i in (1, 2, 3)),
        *(("colon", 1, f"{i}.png") for i in (1, 10, 2)),
    ]
    batch = next(iter(data.train_dataloader()))
    assert [bool(one.any()) for one in batch["gt_mask"]] == [bool(label) for label in batch["gt_label"]]
    assert data.metrics == ()
    chosen = ColonTrain(**options, normal_list=tmp_path / "list.txt", counts="ignore")
    assert [row[2] for row in rows(chosen)][:2] == ["1.jpg", "3.jpg"]
    with pytest.warns(DataWarning, match=r"colon: expected 163 \+ 380, found 3 \+ 3"):
        ColonTrain(**options).select()
    (tmp_path / "list.txt").write_text("gone.jpg")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg', listed in"):
        ColonTrain(**options, normal_list=tmp_path / "list.txt").select()
    with pytest.raises(DatasetNotFoundError, match="polyp-free frames"):
        ColonTrain(tmp_path / "Polyp", tmp_path / "gone").select()
