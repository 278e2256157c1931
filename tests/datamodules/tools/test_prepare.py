import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.cli.data import main
from zsad.datamodules import COVID19, SDD, DatasetCountError, VisA
from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.tools import prepare

RNG = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (20, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def marks(path: Path, value: int, size: tuple[int, int] = (20, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size, np.uint8)
    values[8:14, 3:6] = value
    Image.fromarray(values).save(path)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def contents(data: BenchmarkDataModule) -> list[tuple[Any, ...]]:
    """Return label, pixels and mask of each image, whatever its name."""
    dataset = data.dataset()
    found = []
    for record in data.select():
        image, mask = dataset.read(record)
        marked = np.zeros(image.size[::-1], bool) if mask is None else mask
        found.append((record.class_name, record.label, image.tobytes(), marked.tobytes()))
    return sorted(found)


def test_sdd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "vendor", tmp_path / "cut"
    for part in range(2):
        picture(root / "kos01" / f"Part{part}.jpg", (21, 12))
        marks(root / "kos01" / f"Part{part}_label.bmp", part, (21, 12))
    before = snapshot(root)
    given = ["prepare", "sdd", "--root", str(root), "--out", str(out), "--option=pieces=3", "--option=counts=ignore"]
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 6
    assert snapshot(root) == before
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert names[:2] == [f"electrical commutators/ground_truth/defect/kos01_Part1_{i}.png" for i in (1,)] + [
        "electrical commutators/test/defect/kos01_Part1_1.png"
    ]
    whole, cut = SDD(root, counts="ignore", pieces=3), SDD(out, counts="ignore")
    assert contents(cut) == contents(whole)
    assert cut.expected_counts() == {"electrical commutators": (1143, 54)}  # the recipe, not the authors' archive
    with pytest.raises(DatasetCountError, match=r"expected 1143 \+ 54, found 5 \+ 1"):
        SDD(out, counts="error").select()


@pytest.mark.parametrize("files", ["copy", "symlink"])
def test_visa(tmp_path: Path, files: Any) -> None:
    root, out = tmp_path / "VisA", tmp_path / "out"
    rows = ["object,split,label,image,mask"]
    for i, (kind, split) in enumerate((("Normal", "train"), ("Normal", "test"), ("Anomaly", "test"))):
        path = f"candle/Data/Images/{kind}/{i:04d}.JPG"
        picture(root / path)
        mask = f"candle/Data/Masks/Anomaly/{i:04d}.png" if kind == "Anomaly" else ""
        if mask:
            marks(root / mask, 3)
        rows.append(f"candle,{split},{'anomaly' if mask else 'normal'},{path},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows))
    before = snapshot(root)
    assert prepare(VisA(root, counts="ignore"), out, files) == 2
    assert snapshot(root) == before
    assert (out / "candle/test/good/0001.JPG").is_symlink() == (files == "symlink")
    assert contents(VisA(out, counts="ignore")) == contents(VisA(root, counts="ignore"))
    values = np.asarray(Image.open(out / "candle/ground_truth/bad/0002.png"))
    assert set(np.unique(values)) == {0, 255}


def test_covid19(tmp_path: Path) -> None:
    for folder in ("COVID", "Normal"):
        for i in (1, 2, 10):
            picture(tmp_path / f"all/{folder}/images/{folder}-{i}.png")
    chosen = COVID19(tmp_path / "all", counts="ignore", normal_limit=2, anomalous_limit=1)
    assert prepare(chosen, tmp_path / "first") == 3
    assert contents(COVID19(tmp_path / "first", counts="ignore")) == contents(chosen)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'mvtec_ad' needs no preparation.*visa, sdd, covid19"):
        main(["prepare", "mvtec_ad", "--root", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(FileExistsError, match="exists already"):
        prepare(SDD(tmp_path), tmp_path)
    with pytest.raises(ValueError, match="lies within"):
        prepare(SDD(tmp_path), tmp_path / "inside")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    picture(tmp_path / "x/COVID-19/1.png")
    picture(tmp_path / "x/NORMAL/1.png")
    data = COVID19(tmp_path / "x", counts="ignore")
    data.select()
    (tmp_path / "x/NORMAL/1.png").unlink()
    with pytest.raises(FileNotFoundError):
        prepare(data, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


@pytest.mark.parametrize("path", ["../secret.JPG", "candle/../../secret.JPG", "{secret}"])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_split_file_names_nothing_outside_its_folder(tmp_path: Path, path: str, column: str) -> None:
    root, secret = tmp_path / "VisA", tmp_path / "secret.JPG"
    picture(secret)
    picture(root / "candle/Data/Images/Anomaly/0.JPG")
    (root / "split_csv").mkdir()
    named = {"image": "candle/Data/Images/Anomaly/0.JPG", "mask": "candle/Data/Images/Anomaly/0.JPG"}
    named[column] = path.replace("{secret}", str(secret))
    row = f"candle,test,anomaly,{named['image']},{named['mask']}"
    (root / "split_csv" / "1cls.csv").write_text(f"object,split,label,image,mask\n{row}\n")
    with pytest.raises(ValueError, match=r"names '.*secret.JPG', which lies outside '.*VisA'"):
        prepare(VisA(root, counts="ignore"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
