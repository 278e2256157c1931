"""What one worker does: it holds the model and turns the images of a block into rows, heat maps and raw maps."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from zsad.images.listing import Found
from zsad.images.overlay import Scale
from zsad.inference import Predictor, Result
from zsad.inference.ahead import ahead_of
from zsad.inference.devices import find_device
from zsad.inference.opening import Size
from zsad.inference.overlays import output_name, overlay_name, save_overlay
from zsad.inference.parquet import table_of
from zsad.inference.raw_maps import FOLDER, RawMaps
from zsad.inference.rows import Row
from zsad.scale.places import Place
from zsad.scale.sources import near

ID = "id"
"""Column beside those of a row: 64 bits of an image's identity, by which Ray knows what is done."""


@dataclass(frozen=True)
class Work:
    """What is done with each image.

    Args:
        place: Of the results.
        class_name: What images show that do not say it themselves.
        threshold: Score from which an image is labelled anomalous; None without.
        size: Of the pictures and maps that heat maps are made of.
        scale: Of the heat maps' colours; None for the method's range.
        overlays: Whether there are heat maps.
        maps: How raw maps are written; None writes none.
        labels: Input folder -> folder name below ``overlays`` and ``maps``.
        threads: Threads that read images ahead.
        content: Whether rows carry the digest of the file's content.
    """

    place: Place
    class_name: str
    threshold: float | None
    size: Size
    scale: Scale
    overlays: bool
    maps: RawMaps | None
    labels: Mapping[str, str]
    threads: int
    content: bool


def results(model: Predictor, files: Sequence[Found], work: Work) -> Iterator[tuple[Found, Found, Result]]:
    """Yield each image as it was found, as it lies on this machine, and its result; copies are removed behind it.

    Args:
        model: What scores.
        files: In the order of the list: batches are then those of a run on one machine.
        work: What to do.
    """
    with TemporaryDirectory(prefix="zsad-") as folder:
        fetched: list[Found] = []

        def here() -> Iterator[Found]:
            numbered = enumerate(files)
            one = lambda item: near(item[1], folder, f"{item[0]:06d}")  # noqa: E731
            for found in ahead_of(one, numbered, work.threads, 2 * model.batch_size):
                fetched.append(found)
                yield found

        batches = model.batches(
            here(), work.class_name, threshold=work.threshold, size=work.size, num_workers=work.threads,
            content=work.content,
        )  # fmt: skip
        for place, result in enumerate(itertools.chain.from_iterable(batches)):
            found, local = files[place], fetched[place]
            yield found, local, result
            for copy, own in ((local.path, found.path), (local.ignore_mask, found.ignore_mask)):
                if copy is not None and copy != own:
                    Path(copy).unlink(missing_ok=True)


class Scorer:
    """One worker's model, loaded once.

    Args:
        model: Reference to the :class:`~zsad.Predictor` in the cluster's store, text vectors included.
        work: What to do.
        gpu: Whether the worker has a GPU.
    """

    def __init__(self, model: Any, work: Work, gpu: bool) -> None:
        import ray

        self.model: Predictor = ray.get(model)
        if gpu:
            self.model.device = find_device("auto")
            self.model.one_behind = self.model.device.type == "cuda"
            self.model.method.move(self.model.device)
        self.work = work

    def __call__(self, block: dict[str, Any]) -> Any:
        """Return the rows of a block as a table."""
        work = self.work
        files = [Found(*json.loads(line)) for line in block["found"].tolist()]
        shown = block["path"].tolist()
        with work.place.near() as folder, torch.no_grad():
            rows = [
                self._row(path, *one, folder) for path, one in zip(shown, results(self.model, files, work), strict=True)
            ]
        import pyarrow

        return table_of(rows).append_column(ID, pyarrow.array(block[ID], pyarrow.int64()))

    def _row(self, shown: str, found: Found, local: Found, result: Result, folder: Path) -> Row:
        work = self.work
        more: dict[str, Any] = {"path": shown}
        if result.error is not None:
            more["error"] = result.error.replace(local.path, shown).replace(found.path, shown)
        if local.path != found.path:  # a copy's time says nothing
            more["mtime"] = None
        if work.maps is not None and result.error is None:
            more |= work.maps.save(result, folder, output_name(found, work.labels, FOLDER))
        if work.overlays and result.error is None:
            name = overlay_name(found, work.labels)
            wrong = save_overlay(result, folder, name, work.scale)
            more |= {"overlay": name} if wrong is None else {"error": wrong}
        return Row.of(result, **more)
