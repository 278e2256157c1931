"""Lists of images as inputs: the same rows from CSV, JSON lines and Parquet."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from zsad.datamodules.manifest import read_manifest
from zsad.images.cells import write_cells
from zsad.images.manifest import ManifestError, inputs, is_manifest, listed

ROWS: list[dict[str, Any]] = [
    {"path": "b/1.png", "class_name": "screw", "roi": "10%,10%,80%,80%", "ignore_mask": None, "group": "p1"},
    {"path": "a/2.png", "class_name": "metal nut", "roi": None, "ignore_mask": "fixture.png", "group": "p1"},
    {"path": "a/=3.png", "class_name": None, "roi": None, "ignore_mask": None, "group": None},
]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            write_cells(file, [list(rows[0]), *(list(row.values()) for row in rows)])
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_a_list_is_an_input_like_a_folder(tmp_path: Path, name: str) -> None:
    manifest = _write(tmp_path / name, ROWS)
    found = list(inputs([manifest]))
    assert [one.below for one in found] == ["b/1.png", "a/2.png", "a/=3.png"]
    assert [one.class_name for one in found] == ["screw", "metal nut", None]
    assert [one.roi for one in found] == ["10%,10%,80%,80%", None, None]
    assert [one.ignore_mask for one in found] == [None, str(tmp_path / "fixture.png"), None]
    assert [one.group for one in found] == ["p1", "p1", None]
    assert {one.root for one in found} == {str(tmp_path.resolve())}


def test_files_of_a_list_have_the_identity_that_a_walk_gives_them(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    walked = {one.real: one.below for one in inputs([tmp_path])}
    manifest = _write(tmp_path / "list.jsonl", ROWS[:2])
    assert {one.real: one.below for one in listed(manifest)} == walked


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_one_reader_serves_data_sets_too(tmp_path: Path, name: str) -> None:
    manifest = _write(tmp_path / name, [row | {"label": 0} for row in ROWS[:2]])
    records = list(read_manifest(manifest))
    assert [(one.image_path, one.class_name) for one in records] == [
        (tmp_path / "b/1.png", "screw"), (tmp_path / "a/2.png", "metal nut")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"class_name": "nut"}', "line 2 has no path"),
        ('{"path": "a.png", "roi": "1,2,3"}', r"line 2: A region of interest is X,Y,W,H .* got '1,2,3'"),
        ("{", "line 2 is not JSON"),
        ("[]", "line 2: expected an object, got list"),
    ],
)
def test_a_row_that_is_not_understood_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"path": "x.png"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        list(listed(path))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(b"no parquet at all")
    with pytest.raises(ManifestError, match=r"list\.parquet' is no Parquet file"):
        list(listed(path))


def test_a_file_is_a_list_by_its_name(tmp_path: Path) -> None:
    assert is_manifest(_write(tmp_path / "list.csv", ROWS))
    assert not is_manifest(tmp_path / "missing.csv")
    assert not is_manifest(tmp_path)
