import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.cli.data import main
from zsad.datamodules import Folder, MVTecAD
from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.tools import export


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in (
        "bottle/train/good/000.png",
        "bottle/test/good/000.png",
        "bottle/test/bent/000.png",
        "bottle/ground_truth/bent/000_mask.png",
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        Image.fromarray(np.full((4, 6), 255, np.uint8)).save(tmp_path / path)
    return tmp_path


def rows(data: BenchmarkDataModule, split: str = "test") -> list[tuple[Any, ...]]:
    return [
        (r.class_name, r.label, r.defect, r.image_path.resolve(), r.mask_path and r.mask_path.resolve())
        for r in data.select(split)
    ]


def test_meta_json_is_what_the_other_repositories_read(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["export", "mvtec_ad", f"--root={tree}", f"--out={tree / 'meta.json'}", "--option=counts=ignore"]
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    assert json.loads((tree / "meta.json").read_text()) == {
        "train": {
            "bottle": [
                {
                    "img_path": "bottle/train/good/000.png",
                    "mask_path": "",
                    "cls_name": "bottle",
                    "specie_name": "good",
                    "anomaly": 0,
                }
            ]
        },
        "test": {
            "bottle": [
                {
                    "img_path": "bottle/test/good/000.png",
                    "mask_path": "",
                    "cls_name": "bottle",
                    "specie_name": "good",
                    "anomaly": 0,
                },
                {
                    "img_path": "bottle/test/bent/000.png",
                    "mask_path": "bottle/ground_truth/bent/000_mask.png",
                    "cls_name": "bottle",
                    "specie_name": "bent",
                    "anomaly": 1,
                },
            ]
        },
    }
    assert rows(Folder(tree)) == rows(MVTecAD(tree, counts="ignore"))


@pytest.mark.parametrize("kind", ["meta", "jsonl", "csv"])
def test_there_and_back(tree: Path, kind: Any) -> None:
    out = tree.parent / f"{tree.name}-list.{'json' if kind == 'meta' else kind}"
    data = MVTecAD(tree, counts="ignore")
    assert export(data, out, kind) == 2
    back = rows(Folder(out))
    expected = rows(data) if kind != "jsonl" else [(*row[:2], "", *row[3:]) for row in rows(data)]
    assert back == expected


def test_aa_clip_entries(tree: Path) -> None:
    export(MVTecAD(tree, counts="ignore"), tree / "full-shot.jsonl", "jsonl")
    first, second = map(json.loads, (tree / "full-shot.jsonl").read_text().splitlines())
    assert first == {"image_path": "bottle/test/good/000.png", "label": 0.0, "class_name": "bottle"}
    assert second["mask_path"] == "bottle/ground_truth/bent/000_mask.png"


def test_what_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "kos01").mkdir()
    Image.new("L", (6, 9)).save(tmp_path / "kos01" / "Part0.jpg")
    Image.new("L", (6, 9)).save(tmp_path / "kos01" / "Part0_label.bmp")
    with pytest.raises(ValueError, match="zsad data prepare sdd"):
        main(["export", "sdd", f"--root={tmp_path}", f"--out={tmp_path / 'meta.json'}", "--option=counts=ignore"])
    with pytest.raises(ValueError, match="kind must be 'meta', 'jsonl' or 'csv', got 'xml'"):
        export(Folder(tmp_path), tmp_path / "x", "xml")  # type: ignore[arg-type]


def test_no_cell_of_a_list_is_a_formula_and_it_comes_back(tmp_path: Path) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "'quoted", "\t=x"]
    for name in names:
        for kind in ("good", "=bad"):
            (tmp_path / "data" / name / "test" / kind).mkdir(parents=True)
            Image.new("L", (6, 4)).save(tmp_path / "data" / name / "test" / kind / "0.png")
    data = Folder(tmp_path / "data", layout="tree")
    out = tmp_path / "data" / "list.csv"
    assert export(data, out, "csv") == 12
    with out.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r")]
    assert rows(Folder(out)) == rows(data)
    assert {record.class_name for record in Folder(out).select("test")} == set(names)
