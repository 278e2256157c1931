from pathlib import Path
from typing import Any

import pytest

from zsad.datamodules import DAGM, DataWarning
from zsad.datamodules.layout import PairingError


@pytest.fixture
def dagm(image: Any, mask: Any, tmp_path: Path) -> Path:
    for name, nested in (("Class1", False), ("Class10", True), ("Class2", False)):
        folder = f"DAGM_KaggleUpload/{name}/{name}" if nested else f"DAGM_KaggleUpload/{name}"
        for part, first in (("Test", 1), ("Train", 576)):
            for i in range(first, first + 4):
                image(f"{folder}/{part}/{i:04d}.PNG", mode="L")
            mask(f"{folder}/{part}/Label/{first + 1:04d}_label.PNG")
            for place in (part, f"{part}/Label"):
                (tmp_path / folder / place / "Thumbs.db").write_bytes(b"x")
            rows = [
                f"{i}\t{int(i == first + 1)}\t{i:04d}.PNG\t0\t{f'{i:04d}_label.PNG' if i == first + 1 else 0}"
                for i in range(first, first + 4)
            ]
            (tmp_path / folder / part / "Label" / "Labels.txt").write_text("\n".join(["1", *rows]))
    return tmp_path


def test_records(dagm: Path) -> None:
    data = DAGM(dagm, counts="ignore")
    records = data.select()
    assert data.class_names == ["Class1", "Class10", "Class2"]
    names = [
        (r.image_path.name, r.label, r.mask_path and r.mask_path.name) for r in records if r.class_name == "Class1"
    ]
    assert names == [
        ("0001.PNG", 0, None),
        ("0003.PNG", 0, None),
        ("0004.PNG", 0, None),
        ("0002.PNG", 1, "0002_label.PNG"),
    ]
    assert [r.image_path.name for r in data.select("train")][3] == "0577.PNG"
    assert len(DAGM(dagm, counts="ignore", classes=["Class10"]).select()) == 4


def test_a_label_image_is_lost_but_listed(dagm: Path) -> None:
    (dagm / "DAGM_KaggleUpload/Class1/Test/Label/0002_label.PNG").unlink()
    with pytest.warns(DataWarning, match=r"Labels\.txt' lists other defective images.*0002\.png"):
        DAGM(dagm, counts="ignore").select()


def test_a_label_without_image(dagm: Path) -> None:
    (dagm / "DAGM_KaggleUpload/Class1/Test/0002.PNG").unlink()
    with pytest.raises(PairingError, match=r"mask\(s\) without image: '.*0002_label\.PNG'"):
        DAGM(dagm, counts="ignore").select()
