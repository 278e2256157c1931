"""The colon training set of AnomalyCLIP's medical variant."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zsad.datamodules.polyp import CVCColonDB
from zsad.images import list_images
from zsad.types import Record


class ColonTrain(CVCColonDB):
    """CVC-ColonDB with its masks, and polyp-free frames of your choice; for training only.

    AnomalyCLIP (table 3) took 163 frames of the EndoTect classification test set; which ones was not published, so the
    set cannot be rebuilt exactly. Other numbers than 380 and 163 give a warning.

    Args:
        root: CVC-ColonDB, as for :class:`~zsad.datamodules.polyp.CVCColonDB`.
        normal_root: A folder of polyp-free frames, searched to every depth; there is no set without it.
        normal_list: Text file with one path below ``normal_root`` per line; only these are taken.
        **options: Those of :class:`~zsad.datamodules.base.BenchmarkDataModule`.
    """

    name = "colon_train"

    def __init__(
        self,
        root: str | Path,
        normal_root: str | Path | None = None,
        normal_list: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        self.normal_root = None if normal_root is None else Path(normal_root).expanduser()
        self.normal_list = None if normal_list is None else Path(normal_list).expanduser()

    def records(self, split: str) -> Iterator[Record]:
        """Yield the frames with a polyp, then those without.

        Raises:
            FileNotFoundError: ``normal_root``, ``normal_list`` or a file of the list does not exist.
        """
        yield from super().records(split)
        yield from (Record(path, "colon", 0, None, "normal") for path in self._normal())

    def _normal(self) -> Iterator[Path]:
        if self.normal_root is None:
            raise self.missing(
                "no folder of polyp-free frames was given (option normal_root), which are of your choice,"
            )
        if not self.normal_root.is_dir():
            raise self.missing(
                f"no folder of polyp-free frames '{self.normal_root}' (normal_root), needed beside frames"
            )
        if self.normal_list is None:
            yield from list_images([self.normal_root])
            return
        for line in self.normal_list.read_text(encoding="utf-8").splitlines():
            if line.strip():
                path = self.normal_root / line.strip()
                if not path.is_file():
                    raise FileNotFoundError(f"'{path}', listed in '{self.normal_list}', does not exist.")
                yield path
