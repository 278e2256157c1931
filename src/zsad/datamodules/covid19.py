"""COVID-19 radiography: chest X-rays with image labels."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.dataset import DataWarning
from zsad.datamodules.layout import child, folders_in, images_in
from zsad.types import Record

_COVID = ("covid-19", "covid", "covid19")
_OTHER = ("pneumonia", "opacity", "mask")


class COVID19(BenchmarkDataModule):
    """COVID-19 Radiography Database, first release: 1341 normal and 219 COVID-19 X-rays; image metrics only.

    Layout: ``NORMAL/*.png`` and ``COVID-19/*.png``, names in any case, with or without a level ``images/``. Pneumonia
    and opacity are not read, nor ``masks/``, which are lungs and not lesions. The current release holds 10192 and 3616
    images: choose among them with the options below, or expect other results than the papers'.

    Terms: unverified.

    Args:
        root: Folder of the two folders.
        normal_limit: Take the first so many normal images, by the number in their names.
        anomalous_limit: The same for COVID-19 images.
        image_list: Text file with one file name (or path below the root) per line; only these are taken.
        **options: Those of :class:`~zsad.datamodules.base.BenchmarkDataModule`.
    """

    name = "covid19"

    def __init__(
        self,
        root: str | Path,
        normal_limit: int | None = None,
        anomalous_limit: int | None = None,
        image_list: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        for name, limit in (("normal_limit", normal_limit), ("anomalous_limit", anomalous_limit)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}.")
        self.limits = (normal_limit, anomalous_limit)
        self.image_list = None if image_list is None else Path(image_list)

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records; there is only a test part.

        Raises:
            FileNotFoundError: ``image_list`` does not exist.
        """
        if split != "test":
            raise self.missing(f"no part '{split}' (it is not split)")
        root = self.locate(lambda path: child(path, "normal") is not None, "folder 'NORMAL'")
        folders = child(root, "normal"), self._covid_folder(root)
        chosen = None if self.image_list is None else set(self.image_list.read_text(encoding="utf-8").split("\n"))
        if chosen is None and self.limits == (None, None) and self.counts != "ignore" and child(folders[1], "images"):
            warnings.warn(
                f"'{root}' looks like the current release of the database, not the first one that the papers use; "
                "choose images with normal_limit, anomalous_limit or image_list.",
                DataWarning,
                stacklevel=2,
            )
        for label, (folder, limit) in enumerate(zip(folders, self.limits, strict=True)):
            assert folder is not None
            paths = sorted(images_in(child(folder, "images") or folder), key=_by_number)
            if chosen is not None:
                paths = [path for path in paths if chosen & {path.name, path.relative_to(root).as_posix()}]
            yield from (Record(path, "chest", label, None, folder.name) for path in paths[:limit])

    def _covid_folder(self, root: Path) -> Path:
        if (named := child(root, *_COVID)) is not None:
            return named
        others = [folder for folder in folders_in(root) if folder.name.lower() != "normal"]
        others = [folder for folder in others if not any(word in folder.name.lower() for word in _OTHER)]
        if len(others) != 1:
            names = [folder.name for folder in others]
            raise self.missing(f"no folder 'COVID-19' or 'COVID' beside 'NORMAL' (there is {names})")
        return others[0]


def _by_number(path: Path) -> tuple[int, str]:
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else 0, path.name
