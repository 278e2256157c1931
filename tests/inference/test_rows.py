import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.inference import Result
from zsad.inference.rows import Row, RowWriter, SettingsError

ROWS = [
    Row("a/1.png", 0.25, 1, None),
    Row("b, with comma/2.png", 0.5, 0, None),
    Row('c "quoted"\nnew line.png', None, None, "Cannot read image 'c'."),
    Row("umläut/\udcff.png", 1e-9, None, None),
    Row("5.png", 0.123457, None, None),
]


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def _write(folder: Path, rows: list[Row], batch_size: int = 2, settings: dict[str, object] | None = None) -> None:
    with RowWriter(folder, settings or {"method": "clip"}, batch_size) as writer:
        todo = [row for row in rows if not writer.has(row.path)]
        for start in range(0, len(todo), batch_size):
            writer.write(todo[start : start + batch_size])


def test_both_files_say_the_same_of_every_image(tmp_path: Path) -> None:
    _write(tmp_path, ROWS)
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    table = _read_csv(tmp_path / "scores.csv")
    assert [line["path"] for line in lines] == [row["path"] for row in table] == [row.path for row in ROWS]
    for line, cells, row in zip(lines, table, ROWS, strict=True):
        assert line["score"] == row.score
        assert cells["score"] == ("" if row.score is None else str(row.score))
        assert float(cells["score"] or "nan") == pytest.approx(row.score or float("nan"), nan_ok=True)
        assert cells["label"] == ("" if row.label is None else str(row.label))
        assert cells["error"] == (row.error or "")


def test_wherever_a_run_is_cut_the_next_one_completes_it(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    _write(whole, ROWS)
    data = (whole / "scores.jsonl").read_bytes()
    table = (whole / "scores.csv").read_bytes()
    for cut in range(0, len(data), 7):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "settings.json").write_bytes((whole / "settings.json").read_bytes())
        (folder / "scores.jsonl").write_bytes(data[:cut])
        (folder / "scores.csv").write_bytes(table[: cut // 2])
        _write(folder, ROWS)
        assert (folder / "scores.jsonl").read_bytes() == data, cut
        assert (folder / "scores.csv").read_bytes() == table, cut


def test_only_complete_batches_count_as_done(tmp_path: Path) -> None:
    _write(tmp_path, ROWS)
    with (tmp_path / "scores.jsonl").open("ab") as file:
        file.write(b'{"path": "6.png", "sco')
    with RowWriter(tmp_path, {"method": "clip"}, batch_size=2) as writer:
        assert len(writer) == 4
        assert writer.has(ROWS[3].path)
        assert not writer.has(ROWS[4].path)
        assert list(writer.rows()) == ROWS[:4]


def test_rows_that_were_damaged_are_not_trusted(tmp_path: Path) -> None:
    _write(tmp_path, ROWS[:4])
    lines = (tmp_path / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "scores.jsonl").write_bytes(b"".join([*lines[:2], b"\0\0\0\n", *lines[3:]]))
    with RowWriter(tmp_path, {"method": "clip"}, batch_size=2) as writer:
        assert list(writer.rows()) == ROWS[:2]


def test_other_settings_are_refused_unless_fresh(tmp_path: Path) -> None:
    _write(tmp_path, ROWS)
    with pytest.raises(SettingsError, match=r"other settings \(method: 'clip' then, 'anovl' now\)\. .*--fresh"):
        RowWriter(tmp_path, {"method": "anovl"}, 2)
    assert len(_read_csv(tmp_path / "scores.csv")) == 5
    with RowWriter(tmp_path, {"method": "anovl"}, 2, fresh=True) as writer:
        assert len(writer) == 0
    assert json.loads((tmp_path / "settings.json").read_text()) == {"method": "anovl"}
    assert _read_csv(tmp_path / "scores.csv") == []


def test_row_of_a_result_keeps_seven_digits_and_the_error() -> None:
    image, empty = Image.new("RGB", (1, 1)), np.zeros((1, 1), np.float32)
    good = Result(1 / 3, empty, image, "cork", "a.png", threshold=0.3)
    assert Row.of(good) == Row("a.png", 0.3333333, 1, None)
    bad = Result(float("nan"), empty, image, "cork", "b.png", threshold=0.3, error="broken")
    assert Row.of(bad) == Row("b.png", None, None, "broken")
