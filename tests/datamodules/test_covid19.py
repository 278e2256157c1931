from pathlib import Path
from typing import Any

import pytest

from zsad.datamodules import COVID19, DatasetNotFoundError, DataWarning


def names(data: COVID19) -> list[tuple[int | None, str]]:
    return [(r.label, r.image_path.name) for r in data.select()]


def test_first_release(image: Any, tmp_path: Path) -> None:
    for folder, stem in (("COVID-19", "COVID-19"), ("NORMAL", "NORMAL"), ("Viral Pneumonia", "Viral Pneumonia")):
        for i in (1, 2, 10):
            image(f"{folder}/{stem} ({i}).png", mode="L")
    data = COVID19(tmp_path, counts="ignore")
    assert names(data) == [
        *((0, f"NORMAL ({i}).png") for i in (1, 10, 2)),
        *((1, f"COVID-19 ({i}).png") for i in (1, 10, 2)),
    ]
    assert data.class_names == ["chest"]
    with pytest.raises(DatasetNotFoundError, match="no part 'train'"):
        data.select("train")


@pytest.mark.filterwarnings("ignore:.*other numbers of test images")
def test_current_release(image: Any, mask: Any, tmp_path: Path) -> None:
    top = "COVID-19_Radiography_Dataset"
    for folder in ("COVID", "Normal", "Lung_Opacity", "Viral Pneumonia"):
        for i in (1, 2, 10):
            image(f"{top}/{folder}/images/{folder}-{i}.png")
            mask(f"{top}/{folder}/masks/{folder}-{i}.png")
    with pytest.warns(DataWarning, match="current release of the database, not the first one"):
        assert len(COVID19(tmp_path).select()) == 6
    limited = COVID19(tmp_path, normal_limit=2, anomalous_limit=1)
    assert names(limited) == [(0, "Normal-1.png"), (0, "Normal-2.png"), (1, "COVID-1.png")]
    assert all("masks" not in str(r.image_path) for r in limited.select())
    (tmp_path / "list.txt").write_text("Normal-10.png\nCOVID/images/COVID-2.png\n")
    assert names(COVID19(tmp_path, image_list=tmp_path / "list.txt")) == [(0, "Normal-10.png"), (1, "COVID-2.png")]
    with pytest.raises(ValueError, match="normal_limit must be at least 1, got 0"):
        COVID19(tmp_path, normal_limit=0)


def test_other_folder_names(image: Any, tmp_path: Path) -> None:
    image("normal/1.png")
    image("abnormal/1.png")
    image("Viral Pneumonia/1.png")
    assert names(COVID19(tmp_path, counts="ignore")) == [(0, "1.png"), (1, "1.png")]
    image("third/1.png")
    with pytest.raises(DatasetNotFoundError, match=r"there is \['abnormal', 'third'\]"):
        COVID19(tmp_path).select()
    with pytest.raises(DatasetNotFoundError, match="folder 'NORMAL' not found"):
        COVID19(tmp_path / "third").select()
