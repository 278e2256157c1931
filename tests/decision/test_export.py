"""Files for other tools, read back by independent readers."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from tests.decision.test_regions import blobs
from zsad.datamodules import Folder
from zsad.decision import Region, regions
from zsad.decision.export import Found, export, run_lengths, shared_names


@pytest.fixture(scope="module")
def masks() -> list[NDArray[np.bool_]]:
    made = [blobs(seed, 120)[:90] for seed in range(4)]
    made[3][:] = False
    return made


@pytest.fixture(scope="module")
def found(masks: list[NDArray[np.bool_]]) -> list[Found]:
    names = ["line/a/broken/1.png", "line/a/broken/2.png", "line/b/1.jpg", "line/b/good.png"]
    return [
        Found(
            f"photos/{name}", 120, 90, "nut" if "/a/" in name else "cable", regions(mask * np.float32(0.75), 0.5), 0.9
        )
        for name, mask in zip(names, masks, strict=True)
    ]


def decoded(counts: list[int], height: int, width: int) -> NDArray[np.bool_]:
    """Ten lines that know COCO's run lengths from their description alone."""
    flat = np.zeros(height * width, dtype=bool)
    place, value = 0, False
    for run in counts:
        flat[place : place + run] = value
        place, value = place + run, not value
    assert place == height * width
    return flat.reshape(width, height).T


@pytest.mark.parametrize("fill", [0, 1, None])
def test_run_lengths(fill: int | None) -> None:
    rng = np.random.default_rng(0)
    mask = rng.uniform(size=(7, 5)) < 0.5 if fill is None else np.full((7, 5), bool(fill))
    written = run_lengths(mask)
    assert (decoded(written["counts"], 7, 5) == mask).all()
    assert (coco_masks.decode(coco_masks.frPyObjects(written, 7, 5)).astype(bool) == mask).all()


def test_coco_as_its_own_library_reads_it(tmp_path: Path, found: list[Found], masks: list[NDArray[np.bool_]]) -> None:
    path = export(found, "coco", tmp_path / "regions.json", "0123")
    read = COCO(str(path))
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == ["cable", "nut"]
    assert [one["file_name"] for one in read.loadImgs(read.getImgIds())] == [
        "a/broken/1.png", "a/broken/2.png", "b/1.jpg", "b/good.png"
    ]  # fmt: skip
    assert "upright" in read.dataset["info"]["description"]
    kinds = set()
    for number, (one, mask) in enumerate(zip(found, masks, strict=True), start=1):
        annotations = read.loadAnns(read.getAnnIds(imgIds=[number]))
        assert [tuple(annotation["bbox"]) for annotation in annotations] == [region.box for region in one.regions]
        assert [annotation["area"] for annotation in annotations] == [region.area for region in one.regions]
        union = np.zeros_like(mask)
        for annotation, region in zip(annotations, one.regions, strict=True):
            assert annotation["iscrowd"] == int(len(region.rings) > 1)
            kinds.add(type(annotation["segmentation"]))
            assert isinstance(annotation["segmentation"], dict) == (len(region.rings) > 1)
            union |= read.annToMask(annotation).astype(bool)
        if mask.any():
            assert (union & mask).sum() / (union | mask).sum() > 0.95  # their polygons are drawn by another rule
    assert kinds == {list, dict}


def test_label_studio_in_per_cent(tmp_path: Path, found: list[Found]) -> None:
    path = export(found, "labelstudio", tmp_path / "tasks.json", "0123", "/data/local-files/?d=photos/")
    tasks = json.loads(path.read_text(encoding="utf-8"))
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=photos/a/broken/1.png"
    assert {task["predictions"][0]["model_version"] for task in tasks} == {"0123"}
    for task, one in zip(tasks, found, strict=True):
        for result, region in zip(task["predictions"][0]["result"], one.regions, strict=True):
            points = np.array(result["value"]["points"]) * (one.width / 100, one.height / 100)
            assert boxes(points) == pytest.approx(region.box, abs=0.51)
            assert 0 <= np.min(result["value"]["points"]) <= np.max(result["value"]["points"]) <= 100


def boxes(points: NDArray[Any]) -> tuple[float, ...]:
    """x, y, width, height around points."""
    low, high = points.min(0), points.max(0)
    return (*low.tolist(), *(high - low).tolist())


def test_cvat(tmp_path: Path, found: list[Found]) -> None:
    strange = Found('photos/line/a/<&"\x07>.png', 120, 90, "nut", found[0].regions)
    path = export([*found, strange], "cvat", tmp_path / "regions.xml")
    root = ElementTree.parse(path).getroot()
    assert root.findtext("version") == "1.1"
    images = root.findall("image")
    assert [image.get("name") for image in images[:2]] == ["a/broken/1.png", "a/broken/2.png"]
    assert images[-1].get("name") == 'a/<&">.png'
    for image, one in zip(images, [*found, strange], strict=True):
        assert (image.get("width"), image.get("height")) == ("120", "90")
        polygons = image.findall("polygon")
        assert len(polygons) == len(one.regions)
        for polygon, region in zip(polygons, one.regions, strict=True):
            points = np.array([[float(v) for v in pair.split(",")] for pair in str(polygon.get("points")).split(";")])
            assert boxes(points) == pytest.approx(region.box, abs=0.51)
            assert polygon.get("label") == one.class_name


def test_masks_are_the_ground_truth_of_the_folder_data_module(
    tmp_path: Path, found: list[Found], masks: list[NDArray[np.bool_]]
) -> None:
    part = [
        Found(f"{tmp_path}/part/test/{name}.png", one.width, one.height, "nut", one.regions)
        for name, one in zip(("broken/1", "broken/2", "cut/3", "good/4"), found, strict=True)
    ]
    for one in part:
        Path(one.path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (one.width, one.height)).save(one.path)
    export(part, "masks", tmp_path / "part" / "ground_truth")
    records = list(Folder(root=tmp_path / "part").records("test"))
    assert [record.label for record in records] == [1, 1, 1, 0]
    for record, mask in zip(records, masks, strict=True):
        if record.label:
            assert record.mask_path is not None
            with Image.open(record.mask_path) as picture:
                assert (picture.mode, picture.size) == ("L", (120, 90))
                read = np.asarray(picture)
            assert set(np.unique(read)) == {0, 255}
            assert ((read > 0) & mask).sum() / ((read > 0) | mask).sum() > 0.98


def test_names_below_the_shared_folder() -> None:
    assert shared_names(["a/b/1.png", "a/c/2.png"]) == ["b/1.png", "c/2.png"]
    assert shared_names(["a/b/1.png"]) == ["1.png"]
    assert shared_names([]) == []


def test_errors(tmp_path: Path) -> None:
    region = Region(1, (0, 0, 1, 1), (0.5, 0.5), 1.0, 1.0, (((0, 0), (1, 0), (1, 1), (0, 1)),))
    two = [Found(f"x/1.{ending}", 4, 4, "nut", [region]) for ending in ("png", "jpg")]
    with pytest.raises(ValueError, match=r"Two images would get the mask '.*1\.png'"):
        export(two, "masks", tmp_path)
    with pytest.raises(ValueError, match="one of coco, labelstudio, cvat, masks, got 'yolo'"):
        export(two, "yolo", tmp_path)  # type: ignore[arg-type]
