"""Pictures from addresses, lists and shards are those of a folder: the same scores, names and errors."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from zsad import load_model
from zsad.decision import Card
from zsad.images.listing import Found
from zsad.images.manifest import ManifestError, inputs
from zsad.images.tiling import Tiles
from zsad.inference import Predictor, Result
from zsad.inference.files import FileList
from zsad.scale.places import Place
from zsad.scale.sources import gathered
from zsad.scale.worker import Scorer, Work, results


def work(place: Path, class_name: str = "coin") -> Work:
    return Work(Place.of(place), class_name, None, "model", None, False, None, {}, 2, False)


def scored(model: Predictor, paths: Sequence[str], folder: Path) -> dict[str, tuple[Found, Result]]:
    files = list(gathered(paths, str(folder)))
    return {found.below: (found, result) for found, _, result in results(model, files, work(folder))}


@pytest.fixture(scope="module")
def expected(pictures: Path, model: Predictor) -> dict[str, Result]:
    files = list(inputs([pictures]))
    every = [one for batch in model.batches(files, "coin", size="model") for one in batch]
    return {found.below: one for found, one in zip(files, every, strict=True)}


def check(got: dict[str, tuple[Found, Result]], expected: dict[str, Result]) -> None:
    assert sorted(got) == sorted(expected)
    for below, (_, result) in got.items():
        other = expected[below]
        assert (result.error is None) == (other.error is None), below
        if other.error is None:
            assert result.pred_score == pytest.approx(other.pred_score, abs=1e-6)
            assert result.source_size == other.source_size


def every_file(pictures: Path) -> list[tuple[str, bytes]]:
    return [(path.relative_to(pictures).as_posix(), path.read_bytes()) for path in sorted(pictures.rglob("*.png"))]


def test_a_folder_at_an_address(model: Predictor, pictures: Path, expected: dict[str, Result], tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, content in [*every_file(pictures), ("notes.txt", b"no picture"), (".hidden/x.png", b"none")]:
        memory.pipe_file(f"/coins/{name}", content)
    got = scored(model, ["memory://coins"], tmp_path)
    check(got, expected)
    found, result = got["07b.png"]
    assert found.path == "memory:///coins/07b.png"
    assert result.error is not None
    files = list(gathered(["memory://coins"], str(tmp_path)))
    memory.rm_file("/coins/00.png")  # between listing and reading
    gone = {found.below: result for found, _, result in results(model, files, work(tmp_path))}["00.png"]
    assert "memory:///coins/00.png" in str(gone.error)
    with pytest.raises(FileNotFoundError, match="No such file or folder: 'memory://nothing'"):
        list(gathered(["memory://nothing"], ""))
    with pytest.raises(ValueError, match="Cannot reach 'nosuch://bucket'"):
        list(gathered(["nosuch://bucket"], ""))


def test_tar_shards(model: Predictor, pictures: Path, expected: dict[str, Result], tmp_path: Path) -> None:
    halves = every_file(pictures)[:7], every_file(pictures)[7:]
    for number, half in enumerate(halves):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as shard:
            for name, _ in half:
                shard.add(pictures / name, name)
    got = scored(model, [f"{tmp_path}/*.tar"], tmp_path)
    check(got, expected)
    assert {found.path for found, _ in got.values()} >= {f"{tmp_path}/0.tar/00.png"}
    with tarfile.open(tmp_path / "small.tar.gz", "w:gz") as shard:
        shard.add(pictures / "00.png", "00.png")
    (tmp_path / "small.tar.gz").rename(tmp_path / "small.tar")
    with pytest.raises(ManifestError, match="no tar file that is written without compression"):
        list(gathered([f"{tmp_path}/small.tar"], ""))


def test_a_file_with_two_names_is_in_a_tar_shard_twice(
    model: Predictor, pictures: Path, expected: dict[str, Result], tmp_path: Path
) -> None:
    """tar writes the bytes of hard links once."""
    (tmp_path / "a.png").write_bytes((pictures / "00.png").read_bytes())
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    with tarfile.open(tmp_path / "links.tar", "w") as shard:
        for name in ("a.png", "b.png"):
            shard.add(tmp_path / name, name)
        assert shard.getmember("b.png").islnk()
    assert len(FileList.of(gathered([f"{tmp_path}/links.tar"], ""))) == 2
    got = scored(model, [f"{tmp_path}/links.tar"], tmp_path)
    assert sorted(got) == ["a.png", "b.png"]
    for _, result in got.values():
        assert result.pred_score == pytest.approx(expected["00.png"].pred_score, abs=1e-6)


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_shards_hold_bytes(
    model: Predictor, pictures: Path, expected: dict[str, Result], tmp_path: Path, nested: bool
) -> None:
    rows: list[dict[str, Any]] = [{"path": name, "bytes": content} for name, content in every_file(pictures)]
    table = pa.table({"image": rows, "label": [0] * len(rows)}) if nested else pa.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "shard.parquet", row_group_size=4)
    check(scored(model, [f"{tmp_path}/shard.parquet"], tmp_path), expected)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_lists_name_files_here_and_elsewhere(pictures: Path, tmp_path: Path, ending: str) -> None:
    fsspec.filesystem("memory").pipe_file("/far/a.png", (pictures / "00.png").read_bytes())
    rows = [
        {"path": str(pictures / "01.png"), "class_name": "coin", "roi": None},
        {"path": "memory://far/a.png", "class_name": "nut", "roi": "0,0,50%,50%"},
    ]
    table = pa.Table.from_pylist(rows)
    path = tmp_path / f"list.{ending}"
    if ending == "parquet":
        parquet.write_table(table, path)
    else:
        frame = table.to_pandas()
        frame.to_csv(path, index=False) if ending == "csv" else frame.to_json(path, orient="records", lines=True)
    first, second = gathered([str(path)], "")
    (same,) = [one for one in inputs([path]) if one.path.endswith("01.png")]
    assert first == same
    assert (second.path, second.class_name, second.roi) == ("memory://far/a.png", "nut", "0,0,50%,50%")
    fsspec.filesystem("memory").pipe_file(f"/lists/{path.name}", path.read_bytes())
    assert [one.path for one in gathered([f"memory://lists/{path.name}"], "")][1] == "memory://far/a.png"


def test_a_list_relative_to_its_address(pictures: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/rel/list.csv", b"path\nsub/a.png\n")
    (found,) = gathered(["memory://rel/list.csv"], "")
    assert (found.path, found.below) == ("memory://rel/sub/a.png", "sub/a.png")


def block(files: Sequence[Found]) -> dict[str, Any]:
    import json
    from dataclasses import astuple

    import numpy as np

    columns = {"path": [one.path for one in files], "found": [json.dumps(astuple(one)) for one in files]}
    return {name: np.array(values, object) for name, values in columns.items()} | {"id": np.arange(len(files))}


@pytest.mark.parametrize("kind", ["card", "tiles", "text"])
def test_a_model_that_was_sent_scores_as_before(ray: Any, pictures: Path, tmp_path: Path, kind: str) -> None:
    """Card, tiles and text vectors are state of the model: they travel with it, and no text is encoded again."""
    model = load_model(
        "clip", "zsad-mini", device="cpu", batch_size=3, tiles=Tiles(64, overlap=0.25) if kind == "tiles" else None
    )
    good = [path for path in sorted(pictures.glob("*.png")) if int(path.name[:2]) % 3 and path.name != "07b.png"]
    if kind == "card":
        card: Card = model.calibrate(good, "coin", alpha=0.3)
        model.use_calibration(card)
    files = list(inputs([pictures]))
    model.method.text(["coin"])
    before = [one for batch in model.batches(files, "coin", size="model") for one in batch]
    scorer = Scorer(ray.put(model), work(tmp_path), False)
    scorer.model.method.text_features = None  # type: ignore[assignment]
    rows = scorer(block(files)).to_pylist()
    assert [row["path"] for row in rows] == [one.path for one in files]
    for row, one in zip(rows, before, strict=True):
        assert row["score"] == (pytest.approx(one.pred_score, abs=1e-6) if one.error is None else None)
        assert row["label"] == one.pred_label
        assert row["error"] == one.error
        assert row["p_value"] == (one.decision.p_value if one.decision else None)
        assert (row["tiles"] is not None) == (kind == "tiles" and one.error is None)
