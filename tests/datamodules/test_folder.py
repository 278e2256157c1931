import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zsad.datamodules import DatasetNotFoundError, DataWarning, Folder
from zsad.datamodules.base import batches
from zsad.datamodules.layout import PairingError
from zsad.images.manifest import ManifestError
from zsad.types import ImageProtocol, Record


def rows(data: Folder, split: str = "test") -> list[tuple[Any, ...]]:
    root = data.root

    def relative(path: Path | None) -> str | None:
        return path.relative_to(root).as_posix() if path is not None else None

    return [
        (r.class_name, r.label, r.defect, relative(r.image_path), relative(r.mask_path)) for r in data.select(split)
    ]


def test_plain_nested_images(image: Any, tmp_path: Path) -> None:
    for path in ("b/2.jpg", "b/c/1.PNG", "a.bmp"):
        image(path)
    (tmp_path / "b" / "notes.txt").write_text("x")
    data = Folder(tmp_path, class_name="screw", protocol=ImageProtocol(size=14))
    assert rows(data) == [
        ("screw", None, "", "b/c/1.PNG", None),
        ("screw", None, "", "b/2.jpg", None),
        ("screw", None, "", "a.bmp", None),
    ]
    assert list(next(batches(data))) == ["image", "class_name", "image_path"]
    assert not data.has_masks
    assert data.class_names == ["screw"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"(?s)Folder: no images.*does not exist.*images/ \+ masks/"):
        Folder(tmp_path / "gone").select()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetNotFoundError, match="no images of the part 'test'"):
        Folder(tmp_path).select()
    with pytest.raises(ValueError, match="layout must be 'auto' or one of"):
        Folder(tmp_path, layout="grid").select()  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [("bottle", "grid"), (".",)])
def test_tree(mvtec_tree: Callable[..., None], tmp_path: Path, classes: tuple[str, ...]) -> None:
    mvtec_tree(classes=classes, normal="OK", defects=("cut",))
    names = {"thing" if name == "." else name for name in classes}
    data = Folder(tmp_path, class_name="thing")
    assert {row[0] for row in rows(data)} == names
    assert [row[1:3] for row in rows(data)][:6] == [(0, "OK")] * 3 + [(1, "cut")] * 3
    assert data.has_masks
    assert all(record.label == 0 for record in data.select("train"))
    assert len(Folder(tmp_path, split="train").select()) == 3 * len(classes)


def test_tree_without_masks_or_parts(image: Any, tmp_path: Path) -> None:
    for path in ("good/1.png", "bad/1.png", "bad/2.png"):
        image(path)
    data = Folder(tmp_path)
    assert [row[1:3] for row in rows(data)] == [(0, "good"), (1, "bad"), (1, "bad")]
    assert not data.has_masks
    for path in ("k1/good/1.png", "k1/bad/1.png", "k2/normal/1.png"):
        image(f"deep/{path}")
    assert [row[:3] for row in rows(Folder(tmp_path / "deep"))] == [
        ("k1", 0, "good"),
        ("k1", 1, "bad"),
        ("k2", 0, "normal"),
    ]
    with pytest.raises(DatasetNotFoundError, match=r"no folders \[<class>/\]test/<kind>"):
        Folder(tmp_path / "good", layout="tree").select()


def test_two_flat_folders(image: Any, mask: Any, tmp_path: Path) -> None:
    for name, box in (("1", (1, 1, 5, 5)), ("2", None), ("10", (2, 2, 9, 9))):
        image(f"images/{name}.jpg")
        mask(f"masks/{name}.png", box=box)
    assert [row[1:] for row in rows(Folder(tmp_path))] == [
        (1, "", "images/1.jpg", "masks/1.png"),
        (1, "", "images/10.jpg", "masks/10.png"),
        (1, "", "images/2.jpg", "masks/2.png"),
    ]
    labelled = Folder(tmp_path, label_from_mask=True, class_name="polyp")
    assert [(row[1], row[3]) for row in rows(labelled)] == [
        (0, "images/2.jpg"),
        (1, "images/1.jpg"),
        (1, "images/10.jpg"),
    ]
    (tmp_path / "masks" / "2.png").rename(tmp_path / "masks" / "3.png")
    with pytest.raises(PairingError, match=r"without mask: '.*images/2\.jpg'.*without image: '.*masks/3\.png'"):
        rows(Folder(tmp_path))


def test_masks_beside_their_images(image: Any, mask: Any, tmp_path: Path) -> None:
    for name in ("MT_Crack/Imgs/1", "MT_Crack/Imgs/2", "MT_Free/Imgs/1"):
        image(f"{name}.jpg", mode="L")
        mask(f"{name}.png")
    image("MT_Crack/Imgs/3.jpg")
    data = Folder(tmp_path, mask_extensions=[".png"], normal_dirs=["MT_Free"])
    assert rows(data) == [
        ("object", 0, "MT_Crack", "MT_Crack/Imgs/3.jpg", None),
        ("object", 0, "MT_Free", "MT_Free/Imgs/1.jpg", "MT_Free/Imgs/1.png"),
        ("object", 1, "MT_Crack", "MT_Crack/Imgs/1.jpg", "MT_Crack/Imgs/1.png"),
        ("object", 1, "MT_Crack", "MT_Crack/Imgs/2.jpg", "MT_Crack/Imgs/2.png"),
    ]
    assert data.has_masks


def test_masks_beside_their_images_by_suffix(image: Any, mask: Any, tmp_path: Path) -> None:
    image("kos01/Part0.jpg")
    mask("kos01/Part0_label.bmp", mode="P", value=1)
    image("kos01/Part1.jpg")
    mask("kos01/Part1_label.bmp", box=None)
    data = Folder(tmp_path, layout="beside", mask_suffixes=["_label"], label_from_mask=True)
    assert [(row[1], row[3], row[4]) for row in rows(data)] == [
        (0, "kos01/Part1.jpg", "kos01/Part1_label.bmp"),
        (1, "kos01/Part0.jpg", "kos01/Part0_label.bmp"),
    ]
    with pytest.raises(ValueError, match="empty mask suffix needs mask_extensions"):
        Folder(tmp_path, layout="beside").select()


CSV = """image_path,label,mask_path,class_name,defect,split\r
a.png,0,,screw,,test\r
b.png,anomaly,m.png,screw,bent,test\r
c.png,1.0,m.png,,,\r
d.png,normal,,screw,,train\r
"""


@pytest.mark.parametrize("kind", ["csv", "jsonl", "root", "json"])
def test_manifest(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"list.{'csv' if kind == 'root' else kind}"
    entries: list[dict[str, Any]] = [
        {"image_path": "a.png", "label": 0.0, "class_name": "screw", "split": "test"},
        {"img_path": "b.png", "anomaly": 1, "mask": "m.png", "cls_name": "screw", "specie_name": "bent"},
        {"image": "c.png", "label": "anomaly", "mask_path": "m.png", "object": None},
        {"image_path": "d.png", "label": "normal", "class_name": "screw", "split": "TRAIN"},
    ]
    if kind == "json":
        path.write_text(json.dumps(entries))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    else:
        path.write_bytes(b"\xef\xbb\xbf" + CSV.encode())
    data = Folder(path) if kind == "root" else Folder(tmp_path, manifest=path)
    assert rows(data) == [
        ("object", 1, "", "c.png", "m.png"),
        ("screw", 0, "", "a.png", None),
        ("screw", 1, "bent", "b.png", "m.png"),
    ]
    assert ("screw", 0, "", "d.png", None) in rows(data, "train")


def test_manifest_without_labels_derives_them(tmp_path: Path) -> None:
    (tmp_path / "visa.csv").write_text("object,split,image,mask\ncandle,test,a.png,\ncandle,test,b.png,m.png\n")
    with pytest.warns(DataWarning, match=r"2 row\(s\) without a label"):
        assert [row[1] for row in rows(Folder(tmp_path / "visa.csv"))] == [0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "file,label\nx.png,1\n",
            r"'.*a\.csv' line 2 has no image path; expected .*in \['file', 'label'",
        ),
        ("a.csv", "image_path,label\nx.png,2\n", r"line 2: label '2' is not one of"),
        ("a.jsonl", '{"image_path": "x.png"\n', r"line 1 is not JSON"),
        ("a.jsonl", "[1]\n", r"line 1: expected an object, got list"),
        ("a.json", "3", r"expected \{split: \{class: \[entry, \.\.\.\]\}\}, got int"),
        ("a.json", '{"train": {}}', r"has no split 'test', only \['train'\]"),
        ("a.json", '{"test": {"x": [1]}}', r"test/x\[0\]: expected an object, got int"),
        ("a.txt", "x.png", r"is not a manifest; expected \.csv"),
    ],
)
def test_manifests_that_are_not_understood(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match=message):
        Folder(tmp_path / name).select()


def test_manifest_paths(tmp_path: Path, image: Any) -> None:
    (tmp_path / "data").mkdir()
    outside = image("outside.png")
    (tmp_path / "data" / "a.csv").write_text(f"image_path,label\n../outside.png,1\n{outside},1\n")
    paths = [record.image_path for record in Folder(tmp_path / "data" / "a.csv", strict=False).select()]
    assert [path.resolve() for path in paths] == [outside.resolve()] * 2
    with pytest.raises(ManifestError, match=r"'\.\./outside\.png' lies outside"):
        Folder(tmp_path / "data" / "a.csv").select()
    with pytest.raises(FileNotFoundError, match=r"No manifest '.*gone\.csv'"):
        Folder(tmp_path, manifest=tmp_path / "gone.csv").select()


def test_community_meta_json(tmp_path: Path, image: Any, mask: Any) -> None:
    image("Class1/Test/1.PNG")
    image("Class1/Test/2.PNG")
    mask("Class1/Test/Label/2_label.PNG")
    here = {"img_path": "Class1/Test/1.PNG", "mask_path": "", "cls_name": "Class1", "specie_name": "", "anomaly": 0}
    there = {
        "img_path": "/remote/user/DAGM/Class1/Test/2.PNG",
        "mask_path": "D:\\DAGM\\Class1\\Test\\Label\\2_label.PNG",
        "anomaly": 1,
    }
    image_only = {"img_path": "brain/1.png", "mask_path": "", "cls_name": "brain", "anomaly": 1}
    meta = {"Train": {}, "Test": {"Class1": [here, there], "brain": [image_only]}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    data = Folder(tmp_path)
    assert rows(data) == [
        ("Class1", 0, "", "Class1/Test/1.PNG", None),
        ("Class1", 1, "", "Class1/Test/2.PNG", "Class1/Test/Label/2_label.PNG"),
        ("brain", 1, "", "brain/1.png", None),
    ]
    assert not data.has_masks  # one anomalous image has no mask
    with pytest.raises(DatasetNotFoundError, match="no images of the part 'train'"):
        data.select("train")


def test_domain_is_as_given(tmp_path: Path) -> None:
    assert Folder(tmp_path).domain == "industrial"
    assert Folder(tmp_path, data_domain="medical").domain == "medical"
    assert Folder(tmp_path).metrics == ()
    assert Record(tmp_path, "x").box is None


@pytest.mark.parametrize("layout", ["tree", "pairs", "beside", "plain"])
def test_without_a_train_part_there_are_no_references(image: Any, tmp_path: Path, layout: str) -> None:
    folders = {"tree": ["good", "bad"], "pairs": ["images", "masks"], "beside": ["all"], "plain": ["all"]}[layout]
    for folder in folders:
        image(f"{folder}/1.png")
    data = Folder(tmp_path, layout=layout, mask_suffixes=("_mask", ""), mask_extensions=[".gif"])  # type: ignore[arg-type]
    assert len(data.select("test")) >= 1
    with pytest.raises(DatasetNotFoundError, match="no part 'train' \\(all images are the test part\\)"):
        data.select("train")
