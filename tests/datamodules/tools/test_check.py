import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.cli.data import main
from zsad.datamodules import SDD, Folder, MVTecAD
from zsad.datamodules.tools import check


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write a small MVTec-like tree without a fault."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for kind in ("good", "bent"):
            for i in range(2):
                path = tmp_path / name / "test" / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
                if kind == "bent":
                    mask = np.zeros((20, 30), np.uint8)
                    mask[2 : 5 + i, 3:9] = 255
                    truth = tmp_path / name / "ground_truth" / kind / f"{i}_mask.png"
                    truth.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(truth)
    return tmp_path


def run(
    capsys: pytest.CaptureFixture[str],
    name: str,
    root: Path,
    options: dict[str, Any] | None = None,
    images: bool = False,
) -> tuple[int, dict[str, Any]]:
    given = [f"--option={key}={json.dumps(value)}" for key, value in (options or {}).items()]
    status = main(["check", name, "--root", str(root), *given, "--json", *(["--images"] if images else [])])
    return status, json.loads(capsys.readouterr().out)


def test_a_good_folder(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(capsys, "folder", tree, images=True)
    assert status == 0
    assert report["good"]
    assert report["classes"] == {"a": {"normal": 2, "anomalous": 2}, "b": {"normal": 2, "anomalous": 2}}
    assert len(report["images"]) == 8
    assert report["images"][3] == {
        "image": "a/test/bent/1.png",
        "mask": "a/ground_truth/bent/1_mask.png",
        "class_name": "a",
        "label": 1,
        "defect": "bent",
        "width": 30,
        "height": 20,
        "positive_pixels": 24,
    }
    assert "images" not in run(capsys, "folder", tree)[1]


def test_every_fault_is_found(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "a/test/good/0.png").write_bytes((tree / "a/test/good/0.png").read_bytes()[:80])
    (tree / "a/ground_truth/bent/0_mask.png").write_text("x")
    Image.new("L", (20, 30)).save(tree / "a/ground_truth/bent/1_mask.png")
    Image.new("L", (30, 20)).save(tree / "b/ground_truth/bent/0_mask.png")
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(tree / "b/ground_truth/bent/1_mask.png")
    (tree / "b/test/good/1.png").write_bytes((tree / "b/test/good/0.png").read_bytes())
    status, report = run(capsys, "folder", tree)
    assert status == 1
    assert [one["file"] for one in report["unreadable"]] == ["a/test/good/0.png", "a/ground_truth/bent/0_mask.png"]
    assert [(one["mask"], one["error"]) for one in report["mask_problems"]] == [
        ("a/ground_truth/bent/1_mask.png", "other proportions: mask 20 x 30 pixels, image 30 x 20")
    ]
    assert report["empty_masks"] == ["b/test/bent/0.png"]
    assert report["many_levels"] == ["b/ground_truth/bent/1_mask.png"]
    assert report["duplicates"] == [["b/test/good/0.png", "b/test/good/1.png"]]
    assert main(["check", "folder", "--root", str(tree)]) == 1
    out = capsys.readouterr().out
    for words in ("2 unreadable", "1 masks that do not fit", "1 groups of identical images", "not good"):
        assert words in out


def test_classes_without_one_kind_and_unknown_labels(tree: Path) -> None:
    for i in range(2):
        (tree / f"a/test/good/{i}.png").unlink()
        (tree / f"b/test/bent/{i}.png").unlink()
        (tree / f"b/ground_truth/bent/{i}_mask.png").unlink()
    report = check(Folder(tree))
    assert (report.without_normals, report.without_anomalies) == (["a"], ["b"])
    assert check(Folder(tree, layout="plain")).unknown_labels == 6  # the masks too: nothing is known of a plain folder


def test_a_mask_that_marks_a_normal_image(tree: Path) -> None:
    (tree / "list.csv").write_text(
        "image_path,label,mask_path\na/test/good/0.png,0,a/ground_truth/bent/0_mask.png\na/test/bent/0.png,1,\n"
    )
    report = check(Folder(tree / "list.csv"))
    assert [one["error"] for one in report.mask_problems] == ["marks 18 pixels of a normal image"]
    assert not report.good


def test_counts_against_the_papers(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for old, new in (("a", "bottle"), ("b", "screw")):
        (tree / old).rename(tree / new)
    status, report = run(capsys, "MVTecAD", tree, {"classes": ["bottle", "screw"]})
    assert status == 1
    assert report["name"] == "mvtec_ad"
    assert report["count_differences"] == [
        "bottle: expected 20 + 63, found 2 + 2",
        "screw: expected 41 + 119, found 2 + 2",
    ]
    assert report["classes"]["screw"]["expected_anomalous"] == 119
    counts: Callable[[Any], Any] = lambda self: {"bottle": (2, 2), "screw": (2, 2)}  # noqa: E731
    monkeypatch.setattr(MVTecAD, "expected_counts", counts)
    assert run(capsys, "mvtec_ad", tree)[0] == 0


def test_what_cannot_be_read_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(capsys, "visa", tmp_path)
    assert status == 1
    assert "1cls.csv' (the split of VisA) not found" in report["problem"]
    assert main(["check", "visa", "--root", str(tmp_path)]) == 1
    assert "1cls.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vissa", {}, "Unknown data set 'vissa'; known, nearest first: visa"),
        ("sdd", {"peices": 3}, r"SDD has no option 'peices'; nearest: \['pieces'\]"),
        ("sdd", {"pieces": 7}, "pieces must be 1, 2 or 3, got 7"),
        ("synthetic", {}, "'synthetic' has no files to work on"),
    ],
)
def test_requests_that_cannot_be_met(
    name: str, options: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        run(capsys, name, tmp_path, options)


def test_parts_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "kos01").mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (21, 10), dtype=np.uint8)).save(tmp_path / "kos01" / "Part0.jpg")
    mask = np.zeros((21, 10), np.uint8)
    mask[15:17, 2:6] = 1
    Image.fromarray(mask).save(tmp_path / "kos01" / "Part0_label.bmp")
    report = check(SDD(tmp_path))
    assert [(one["label"], one["height"], one["positive_pixels"]) for one in report.images] == [(0, 10, 0), (1, 11, 8)]
    assert report.images[1]["image"] == "kos01/Part0.jpg#xywh=0,10,10,11"
    assert report.duplicates == []
    assert report.count_differences == ["electrical commutators: expected 731 + 67, found 1 + 1"]
