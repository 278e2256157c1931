import csv
import errno
import hashlib
import json
import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from zsad.images.cells import read_cells
from zsad.inference import Result
from zsad.inference.files import FileFacts, FileList, identity
from zsad.inference.lock import FolderInUseError
from zsad.inference.relabel import MARK, by_threshold, relabel
from zsad.inference.rows import COLUMNS, JSON_ONLY, Row
from zsad.inference.settings import SettingsError
from zsad.inference.writer import GONE, RowWriter, read_rows

ROWS = [
    Row("a/1.png", 0.25, 1, None),
    Row("b, with comma/2.png", 0.5, 0, None),
    Row('c "quoted"\nnew line.png', None, None, "Cannot read image 'c'."),
    Row("umläut/\udcff.png", 1e-9, None, None),
    Row("5.png", 0.123457, None, None),
]


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(read_cells(file))


def _write(folder: Path, rows: list[Row], batch_size: int = 2, settings: dict[str, object] | None = None) -> None:
    with RowWriter(folder, settings or {"method": "clip"}, batch_size) as writer:
        todo = [row for row in rows if not writer.has(writer.identity(row))]
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
        assert writer.has(writer.identity(ROWS[3]))
        assert not writer.has(writer.identity(ROWS[4]))
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
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings == {"format": 2, "base": os.getcwd(), "method": "anovl"}
    assert _read_csv(tmp_path / "scores.csv") == []


def test_row_of_a_result_is_single_precision_exactly_and_has_the_error() -> None:
    image, empty = Image.new("RGB", (1, 1)), np.zeros((1, 1), np.float32)
    score = float(np.float32(1) / np.float32(3))
    row = Row.of(Result(score, empty, image, "cork", "a.png", threshold=0.3, source_size=(4, 5)))
    assert row == Row("a.png", row.score, 1, None, "cork", width=5, height=4)
    assert np.float32(row.score) == np.float32(score)
    bad = Result(float("nan"), empty, image, "cork", "b.png", threshold=0.3, error="broken")
    assert Row.of(bad) == Row("b.png", None, None, "broken", "cork")


def test_every_row_has_all_keys_of_the_schema(tmp_path: Path) -> None:
    schema = json.loads(resources.files("zsad.inference").joinpath("rows.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert tuple(schema["required"]) == COLUMNS
    assert set(schema["properties"]) == {*COLUMNS, *JSON_ONLY}
    full = Row(
        *("a.png", 0.5, 1, None, "cork", "dark", 0.01, 0.05, 0.05, 1, 4, 3, 99, 1.25, "0" * 64, "overlays/a.jpg"),
        *("maps/a.npy", [{"area": 3}], [["a hole", 0.2]]),
    )
    _write(tmp_path, [*ROWS[:3], full])
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        validator.validate(line)
    assert list(read_rows(tmp_path))[-1] == full
    table = _read_csv(tmp_path / "scores.csv")
    assert tuple(table[0]) == COLUMNS
    assert table[3]["map"] == "maps/a.npy"
    for wrong in ({"score": "0.5"}, {"label": 2}, {"sha256": "0"}, {"other": 1}):
        assert not validator.is_valid({**lines[0], **wrong}), wrong


def test_readers_accept_rows_without_the_newer_keys() -> None:
    assert Row.read('{"path": "a.png", "score": 0.5, "label": null, "error": null}') == Row("a.png", 0.5)
    assert Row.read('{"path": "a.png", "from the future": 1}') == Row("a.png")


@pytest.mark.parametrize(
    "line",
    [
        *('{"path": "a", "score": NaN}', '{"path": "a", "score": Infinity}', '{"path": "a", "score": 1e999}'),
        *('{"score": 1}', '["path"]', "null"),
        *('{"path": "a", "label": 3}', '{"path": "a", "label": true}', '{"path": "a", "error": 4}'),
    ],
)
def test_what_is_no_row_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"row|JSON"):
        Row.read(line)


def test_rows_are_json_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Row("a.png", float("nan")).line()


ATTACKS = ["=1+1.png", "+1.png", "-1.png", "@SUM(A1).png", "a\rb.png", "\r=1.png", "'=1.png", "'quoted.png", "\t=x.png"]


def test_no_cell_is_a_formula_and_all_are_read_back(tmp_path: Path) -> None:
    _write(tmp_path, [Row(name, -0.5, None, name, name) for name in ATTACKS])
    raw = (tmp_path / "scores.csv").read_bytes().decode()
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.reader(file))[1:]
    assert all(cell[:1] not in set("=+@\t\r") for row in cells for cell in row)
    assert {row[2] for row in cells} == {"-0.5"}  # a number stays one
    assert all(row[0][:1] != "-" for row in cells)
    assert all(line.count('"') % 2 == 0 for line in raw.split("\n"))  # every "\r" lies inside of quotes
    assert "\r" not in "".join(raw.split('"')[::2])
    assert [row["path"] for row in _read_csv(tmp_path / "scores.csv")] == ATTACKS
    assert [row["error"] for row in _read_csv(tmp_path / "scores.csv")] == ATTACKS


# ---- folders of earlier versions, and damaged ones


def test_folder_of_an_older_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    old = {"settings.json": '{"method": "clip"}', "scores.csv": "path,score,label,error\na.png,0.5,,\n"}
    old["scores.jsonl"] = '{"path": "a.png", "score": 0.5, "label": null, "error": null}\n{"path": "cut o'
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=r"holds rows of format 1; this zsad continues format 2\. Nothing was"):
        RowWriter(tmp_path, {"method": "clip"}, 2)
    with pytest.raises(SettingsError, match="holds rows of format 1"):
        relabel(tmp_path, by_threshold(0.5), {"threshold": 0.5})
    for name, text in old.items():
        assert (tmp_path / name).read_text() == text
    with RowWriter(tmp_path, {"method": "clip"}, 2, fresh=True) as writer:
        assert len(writer) == 0


@pytest.mark.parametrize("content", ["", '{"format": 2, "meth', "[]", b"\xff\xfe", None])
def test_damaged_settings_beside_rows_are_refused_and_nothing_is_cut(tmp_path: Path, content: str | bytes) -> None:
    _write(tmp_path, ROWS)
    before = (tmp_path / "scores.jsonl").read_bytes()
    if content is None:
        (tmp_path / "settings.json").unlink()
    else:
        (tmp_path / "settings.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError, match=r"settings\.json.*Nothing was changed: use another folder, or --fresh"):
        RowWriter(tmp_path, {"method": "clip"}, 2)
    assert (tmp_path / "scores.jsonl").read_bytes() == before
    _write(tmp_path / "empty", [])
    (tmp_path / "empty" / "settings.json").write_text("")
    _write(tmp_path / "empty", ROWS)  # no rows: nothing is lost
    assert len(list(read_rows(tmp_path / "empty"))) == len(ROWS)


def test_a_line_that_was_duplicated_by_hand_counts_once(tmp_path: Path) -> None:
    _write(tmp_path / "whole", ROWS)
    _write(tmp_path, ROWS)
    lines = (tmp_path / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "scores.jsonl").write_bytes(b"".join([lines[0], lines[0], lines[1], lines[1], *lines[2:]]))
    _write(tmp_path, ROWS)
    for name in ("scores.jsonl", "scores.csv"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_takes_one_run_at_a_time(tmp_path: Path) -> None:
    with RowWriter(tmp_path, {"method": "clip"}, 2) as writer:
        writer.write(ROWS[:2])
        with pytest.raises(FolderInUseError, match=r"Another run is writing into '.*'\. Wait until it ends"):
            RowWriter(tmp_path, {"method": "clip"}, 2)
        with pytest.raises(FolderInUseError):
            relabel(tmp_path, by_threshold(0.5), {"threshold": 0.5})
    _write(tmp_path, ROWS)
    relabel(tmp_path, by_threshold(0.5), {"threshold": 0.5})
    with RowWriter(tmp_path, {"method": "clip", "threshold": 0.5}, 2) as writer:
        assert len(writer) == 4


def test_a_full_disk_is_named_with_its_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RowWriter(tmp_path, {"method": "clip"}, 2)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    usage = shutil.disk_usage(tmp_path)._replace(total=5 * 10**6, free=10**6)
    with writer, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OSError, match="No space is left") as caught:
            writer.write(ROWS[:2])
    assert "scores.jsonl' (1.0 MB of 5.0 MB are free there)" in str(caught.value)
    assert "run the same command again" in str(caught.value)


# ---- identity, and files that change


def _pictures(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(b"x" * (number + 1))


def _row(path: str | Path, score: float = 0.5, content: bool = False, **more: Any) -> Row:
    facts = FileFacts.of(path, content)
    assert facts is not None
    return Row(str(path), score, bytes=facts.bytes, mtime=facts.mtime, sha256=facts.sha256, **more)


def test_every_spelling_of_a_path_is_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pictures(tmp_path / "in", "a.png", "b.png", "c#xywh=1,2,3,4")
    monkeypatch.chdir(tmp_path)
    spelled = ["in/a.png", "./in/a.png", "in/../in/a.png", str(tmp_path / "in" / "a.png"), "in/./b.png", "in"]
    assert {identity(path) for path in spelled[:4]} == {str(tmp_path / "in" / "a.png")}
    (tmp_path / "in" / "link.png").symlink_to("b.png")
    files = FileList(spelled)
    assert [found.path for found in files] == ["in/a.png", "in/b.png"]
    assert (len(files), files.repeated) == (2, 1)
    with RowWriter(tmp_path / "out", {}, 1) as writer:
        writer.write([_row("in/a.png")])
    monkeypatch.chdir(tmp_path / "in")  # rows stay those of the folder in which the run began
    with RowWriter(tmp_path / "out", {}, 1, files=FileList(["a.png", "b.png"])) as writer:
        assert [writer.has(found.real) for found in FileList(["a.png", "b.png"])] == [True, False]
        assert writer.shown("b.png") == str(tmp_path / "in" / "b.png")
        assert (writer.again, writer.gone, writer.outside) == (0, 0, 0)


def test_a_fragment_is_read_only_where_no_file_has_that_name(tmp_path: Path) -> None:
    _pictures(tmp_path / "in", "a.png", "b#page=2.png")
    assert identity(f"{tmp_path}/in/../in/a.png#page=1") == f"{tmp_path}/in/a.png#page=1"
    assert identity(f"{tmp_path}/in/../in/b#page=2.png") == f"{tmp_path}/in/b#page=2.png"


def test_changed_vanished_and_excluded_files(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    _pictures(root, "a.png", "b.png", "c.png", "d_mask.png")
    with RowWriter(out, {}, 1) as writer:
        writer.write([_row(path) for path in sorted(root.iterdir())])
    os.utime(root / "a.png", (5, 5))
    (root / "b.png").unlink()

    def opened(prune: bool = False) -> tuple[list[str], tuple[int, int, int, int]]:
        files = FileList([str(root)], ["*_mask.png"])
        with RowWriter(out, {}, 1, files=files, prune=prune) as writer:
            left = [Path(found.path).name for found in files if not writer.has(found.real)]
            return left, (writer.again, writer.gone, writer.outside, writer.pruned)

    assert opened() == (["a.png"], (1, 1, 1, 0))
    assert {Path(row.path).name: row.warning for row in read_rows(out)} == {
        "b.png": GONE,
        "c.png": None,
        "d_mask.png": None,
    }
    (root / "b.png").write_bytes(b"yy")
    os.utime(root / "b.png", (7, 7))
    assert opened() == (["a.png", "b.png"], (1, 0, 1, 0))  # it came back with another time
    assert opened(prune=True) == (["a.png", "b.png"], (0, 0, 1, 1))
    assert [Path(row.path).name for row in read_rows(out)] == ["c.png"]


def test_with_digests_content_decides(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    _pictures(root, "a.png", "b.png")
    with RowWriter(out, {}, 1) as writer:
        writer.write([_row(path, content=True) for path in sorted(root.iterdir())])
    assert next(read_rows(out)).sha256 == hashlib.sha256(b"x").hexdigest()
    os.utime(root / "a.png", (5, 5))  # touched, the same content
    time = (root / "b.png").stat()
    (root / "b.png").write_bytes(b"zz")  # another content, size and time as before
    os.utime(root / "b.png", ns=(time.st_atime_ns, time.st_mtime_ns))
    with RowWriter(out, {}, 1, files=FileList([str(root)]), content=True) as writer:
        assert writer.again == 1
        assert [Path(row.path).name for row in writer.rows()] == ["a.png"]


# ---- other labels


def test_relabel_gives_the_labels_of_scoring_with_that_threshold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = [float(score) for score in rng.random(40, dtype=np.float32)]
    image, empty = Image.new("RGB", (1, 1)), np.zeros((1, 1), np.float32)

    def rows(threshold: float | None) -> list[Row]:
        return [Row.of(Result(s, empty, image, "x", f"{n}.png", threshold)) for n, s in enumerate(scores)]

    _write(tmp_path, [*rows(None), Row("broken.png", None, None, "broken")])
    for threshold in [*scores[:10], 0.5, -1.0]:
        others = relabel(tmp_path, by_threshold(threshold), {"threshold": threshold})
        assert others[0] == 41
        found = list(read_rows(tmp_path))
        assert found[:-1] == rows(threshold)
        assert found[-1].label is None
        assert [row["label"] for row in _read_csv(tmp_path / "scores.csv")][:-1] == [str(r.label) for r in found[:-1]]
    assert relabel(tmp_path, by_threshold(-1.0), {"threshold": -1.0}) == (41, 0)
    with RowWriter(tmp_path, {"method": "clip", "threshold": -1.0}, 1) as writer:
        assert len(writer) == 41
    with pytest.raises(SettingsError, match=r"threshold: -1\.0 then, 2\.0 now\)\. 'zsad relabel .* --threshold 2'"):
        RowWriter(tmp_path, {"method": "clip", "threshold": 2.0}, 1)


def test_interrupted_relabelling_must_be_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, ROWS)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zsad.inference.settings.write_settings", killed)
        with pytest.raises(KeyboardInterrupt):
            relabel(tmp_path, by_threshold(0.1), {"threshold": 0.1})
    assert (tmp_path / MARK).exists()
    with pytest.raises(SettingsError, match=r"was interrupted\. Run 'zsad relabel"):
        RowWriter(tmp_path, {"method": "clip"}, 2)
    relabel(tmp_path, by_threshold(0.1), {"threshold": 0.1})
    with RowWriter(tmp_path, {"method": "clip", "threshold": 0.1}, 2) as writer:
        assert len(writer) == 4


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_is_a_number(threshold: float) -> None:
    with pytest.raises(ValueError, match="A threshold must be a finite number"):
        by_threshold(threshold)


def test_relabel_needs_rows(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no rows: there is no scores\.jsonl"):
        relabel(tmp_path, by_threshold(0.1), {})
    assert not list(tmp_path.iterdir())
    _write(tmp_path, ROWS)
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"path": "cut o')
    with pytest.raises(SettingsError, match=r"Line 6 of .* is no row .*run the same 'zsad score' again"):
        relabel(tmp_path, by_threshold(0.1), {})
