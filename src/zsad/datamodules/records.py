"""Records packed into a few buffers, so that a long list of images costs little and worker processes share it."""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from zsad.types import Record

_NONE = -1


class PackedRecords(Sequence[Record]):
    """A read-only list of records that keeps bytes instead of objects; a record is made when it is asked for.

    A Python list of 100,000 records is a million small objects, and each worker process of a data loader ends up with
    its own copy as reading them touches their reference counts. Here the paths share one buffer.

    Args:
        records: Read once, from the first to the last.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])  # of image path, mask path, image path, ...
        self._words: dict[str, int] = {}  # folders, class names and defects, each kept once
        self._small = array("q")  # class, defect, label per record, and the folders of image and mask
        self._boxes: dict[int, tuple[int, int, int, int]] = {}
        for record in records:
            self._append(record)
        self._spelled = list(self._words)

    def _append(self, record: Record) -> None:
        if record.box is not None:
            self._boxes[len(self)] = record.box
        folders = []
        for path in (record.image_path, record.mask_path):
            folder, name = os.path.split("" if path is None else path)
            folders.append(_NONE if path is None else self._word(folder))
            self._text += name.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._text))
        label = _NONE if record.label is None else record.label
        self._small.extend((self._word(record.class_name), self._word(record.defect), label, *folders))

    def _word(self, text: str) -> int:
        return self._words.setdefault(text, len(self._words))

    def __len__(self) -> int:
        return len(self._small) // 5

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index %= len(self)
        class_name, defect, label, image_folder, mask_folder = self._small[5 * index : 5 * index + 5]
        image = self._path(2 * index, image_folder)
        assert image is not None
        return Record(
            image_path=image,
            class_name=self._spelled[class_name],
            label=None if label == _NONE else label,
            mask_path=self._path(2 * index + 1, mask_folder),
            defect=self._spelled[defect],
            box=self._boxes.get(index),
        )

    def _path(self, position: int, folder: int) -> Path | None:
        if folder == _NONE:
            return None
        return Path(self._spelled[folder], self._name(position).decode("utf-8", "surrogateescape"))

    def _name(self, position: int) -> bytes:
        return bytes(self._text[self._ends[position] : self._ends[position + 1]])

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} records)"

    def sorted(self) -> "PackedRecords":
        """Return the records by class, label (unknown first), defect, file name, then path and part."""
        order = sorted(range(len(self)), key=self._key)
        if order == list(range(len(self))):
            return self
        return PackedRecords(self[index] for index in order)

    def _key(self, index: int) -> tuple[str, int, str, bytes, str, tuple[int, ...]]:
        class_name, defect, label, folder, _ = self._small[5 * index : 5 * index + 5]
        words, name = self._spelled, self._name(2 * index)  # UTF-8 sorts as the text does
        return words[class_name], label, words[defect], name, words[folder], self._boxes.get(index, ())

    def class_names(self) -> list[str]:
        """Return the names of the classes that occur, sorted."""
        return sorted({self._spelled[word] for word in set(self._small[0::5])})

    def tally(self) -> dict[str, tuple[int, int]]:
        """Return class -> (normal, anomalous) images; images of unknown label are not counted."""
        numbers = Counter(zip(self._small[0::5], self._small[2::5], strict=True))
        words = {self._spelled[word]: word for word, _ in numbers}
        return {name: (numbers[words[name], 0], numbers[words[name], 1]) for name in sorted(words)}

    @property
    def labelled(self) -> bool:
        """Whether every record has a label."""
        return _NONE not in self._small[2::5]

    @property
    def masked(self) -> bool:
        """Whether there is an anomalous record and every such record has a mask."""
        labels, masks = self._small[2::5], self._small[4::5]
        return 1 in labels and all(mask != _NONE for label, mask in zip(labels, masks, strict=True) if label == 1)
