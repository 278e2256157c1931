import pickle
from pathlib import Path

import pytest

from zsad.datamodules.records import PackedRecords
from zsad.types import Record

RECORDS = [
    Record(Path("/data/b/test/ä b/001.png"), "b", 1, Path("/data/b/ground_truth/ä b/001_mask.png"), "ä b"),
    Record(Path("relative.jpg"), "a"),
    Record(Path("/top.png"), "", 0, None, "good", (0, 10, 500, 645)),
    Record(Path("x") / "bad-\udcff.png", "01", 1, Path("m.png")),
]


def test_packing_loses_nothing() -> None:
    packed = PackedRecords(iter(RECORDS))
    for copy in (packed, pickle.loads(pickle.dumps(packed))):
        assert list(copy) == RECORDS
        assert [copy[i] for i in range(-4, 4)] == RECORDS * 2
        assert copy[1:3] == RECORDS[1:3]
        assert len(copy) == 4
    assert repr(packed) == "PackedRecords(4 records)"
    with pytest.raises(IndexError, match="record 4 of 4"):
        packed[4]


def test_packed_records_are_small() -> None:
    many = PackedRecords(Record(Path(f"/some/folder/{i:06d}.png"), "screw", i % 2) for i in range(2000))
    assert len(pickle.dumps(many)) / len(many) < 100  # bytes per image


def test_order_is_class_label_defect_name() -> None:
    def make(name: str, label: int | None, defect: str, file: str) -> Record:
        return Record(Path(defect, file), name, label, None, defect)

    ordered = [
        make("a", None, "z", "0.png"),
        make("a", 0, "good", "1.png"),
        make("a", 1, "bent", "0.png"),
        make("a", 1, "bent", "1.png"),
        make("a", 1, "cut", "0.png"),
        make("b", 0, "good", "0.png"),
    ]
    packed = PackedRecords(reversed(ordered)).sorted()
    assert list(packed) == ordered
    assert packed.sorted() is packed
    assert packed.class_names() == ["a", "b"]
    assert packed.tally() == {"a": (1, 3), "b": (1, 0)}
    assert not packed.labelled
    assert not packed.masked


def test_parts_of_an_image_are_in_order() -> None:
    parts = [Record(Path("x.jpg"), "a", 0, None, "", (0, top, 20, top + 5)) for top in (0, 5, 10, 100)]
    assert list(PackedRecords(reversed(parts)).sorted()) == parts


def test_masks_are_complete_only_if_every_anomalous_image_has_one() -> None:
    masked, bare = Record(Path("a"), "x", 1, Path("m")), Record(Path("b"), "x", 1)
    normal, unknown = Record(Path("c"), "x", 0), Record(Path("d"), "x")
    assert PackedRecords([masked, normal, unknown]).masked
    assert not PackedRecords([masked, bare]).masked
    assert not PackedRecords([normal, unknown]).masked
    assert PackedRecords([masked, normal]).labelled
