from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zsad.datamodules import DatasetNotFoundError, VisA


@pytest.fixture
def visa(image: Any, mask: Any, tmp_path: Path) -> Path:
    rows = ["object,split,label,image,mask"]
    for name in ("candle", "pcb1"):
        for i in range(4):
            path = f"{name}/Data/Images/Normal/{i:04d}.JPG"
            image(path)
            rows.append(f"{name},{'train' if i < 2 else 'test'},normal,{path},")
        for i in range(3):
            path, truth = f"{name}/Data/Images/Anomaly/{i:03d}.JPG", f"{name}/Data/Masks/Anomaly/{i:03d}.png"
            image(path)
            mask(truth, value=i + 1)  # kinds of defect, nearly black to the eye
            rows.append(f"{name},test,anomaly,{path},{truth}")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_bytes("\r\n".join([*rows, ""]).encode())
    return tmp_path


def test_the_csv_is_the_split(visa: Path) -> None:
    data = VisA(visa, counts="ignore")
    records = data.select()
    assert [(r.class_name, r.label, r.image_path.name) for r in records][:5] == [
        ("candle", 0, "0002.JPG"),
        ("candle", 0, "0003.JPG"),
        ("candle", 1, "000.JPG"),
        ("candle", 1, "001.JPG"),
        ("candle", 1, "002.JPG"),
    ]
    assert len(records) == 10
    assert len(data.select("train")) == 4
    dataset = data.dataset()
    for index in (2, 3, 4):
        _, marked = dataset.read(records[index])
        assert marked is not None
        assert marked.sum() == 60  # class indices 1, 2, 3 all count


def test_the_folder_above_and_one_class(visa: Path) -> None:
    inner = visa / "VisA_20220922"
    inner.mkdir()
    for name in ("candle", "split_csv"):
        (visa / name).rename(inner / name)
    assert len(VisA(visa, counts="ignore", classes=["candle"]).select()) == 5  # pcb1 is not there


def test_without_the_csv_there_is_no_split(visa: Path) -> None:
    (visa / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"1cls\.csv' \(the split of VisA\) not found"):
        VisA(visa).select()


def test_a_file_of_the_csv_is_missing(visa: Path) -> None:
    (visa / "pcb1/Data/Masks/Anomaly/001.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"pcb1/Data/Masks/Anomaly/001\.png', listed in"):
        VisA(visa).select()


def test_the_rearranged_tree(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree(classes=("candle", "fryum"), defects=("bad",), suffix="", extension=".jpg")
    records = VisA(tmp_path, counts="ignore").select()
    assert [(r.class_name, r.label, r.defect) for r in records][:4] == [("candle", 0, "good")] * 3 + [
        ("candle", 1, "bad")
    ]
    assert records[3].mask_path == tmp_path / "candle/ground_truth/bad/000.png"
