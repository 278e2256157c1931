"""From the bytes of an image to its result: decoded in threads, scored by one, counted and watched."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.decision.drift import Watch, watch_of
from zsad.deploy.answers import Question, row_of, small
from zsad.deploy.batching import Batcher, Scored
from zsad.deploy.bodies import Part
from zsad.deploy.counters import Counters
from zsad.deploy.guards import LOG
from zsad.deploy.refusals import Refusal
from zsad.deploy.served import Served
from zsad.deploy.summary import digest
from zsad.deploy.uploads import open_upload
from zsad.images.levels import ReadOptions
from zsad.inference.result import Result
from zsad.inference.rows import COLUMNS, Row

_T = TypeVar("_T")


class Engine:
    """A model with its threads.

    Args:
        model: Loaded.
        reading: How grey levels are read, and how many pixels are too many.
        batch_size: Most images of a pass.
        batch_wait: Seconds that an image waits for others.
        decoders: Threads that decode; each holds one decoded image.
    """

    def __init__(
        self,
        model: Served,
        reading: ReadOptions,
        batch_size: int = 8,
        batch_wait: float = 0.005,
        decoders: int | None = None,
    ) -> None:
        self.model, self.reading = model, reading
        self.counters = Counters(lambda: len(self._batcher))
        self.ready = False
        self._batcher = Batcher(model, batch_size, batch_wait, self.counters.batch)
        self._pool = ThreadPoolExecutor(decoders or min(4, cores()), "zsad-decode")
        self._digest = digest(model.meta)
        card = model.calibration
        self._watches: Mapping[str, Watch] = (
            {} if card is None else {name: watch_of(one) for name, one in card.classes.items()}
        )
        self._watching = threading.Lock()

    def warm_up(self) -> None:
        """Let the model score a grey picture; :attr:`ready` is True once it has."""

        def done(future: Future[Scored]) -> None:
            self.ready = future.exception() is None
            if not self.ready:
                LOG.error("the model does not score: %s", future.exception())

        pixels = self.model.prepare(Image.new("RGB", (64, 64), (128, 128, 128)))
        self._batcher.submit(pixels, 0).add_done_callback(done)

    def close(self) -> None:
        """Finish what was begun, then end the threads."""
        self._pool.shutdown()
        self._batcher.close()

    def index(self, question: Question) -> int:
        """Return the place of the class that is asked about.

        Raises:
            Refusal: 422; the model or the card has no such class, or what is asked for needs a card.
        """
        card, classes = self.model.calibration, self.model.classes
        name = question.class_name
        if name is None and len(classes) > 1:
            raise Refusal(422, "class_name", f"Say which class is meant: {', '.join(classes)}.")
        try:
            index = self.model.index(name or classes[0])
            entry = None if card is None else card.entry(name or classes[0])
        except ValueError as error:
            raise Refusal(422, "class_name", str(error)) from error
        if card is not None and question.threshold is not None:
            raise Refusal(422, "threshold", "The calibration decides here; ask without a threshold.")
        if question.regions and (entry is None or entry.regions is None):
            raise Refusal(422, "regions", "Regions need a calibration of maps, which this server does not have.")
        return index

    async def in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Return what a function gives, computed beside the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def score(self, image: Part, question: Question, index: int) -> Result:
        """Return the result of an image, with the map at the model's size.

        Raises:
            Refusal: 422; it cannot be read, or the model has no score for it.
        """
        pixels, shown, size = await self.in_thread(self._open, image.data, question)
        image.data = b""  # it may wait long
        try:
            scored = await asyncio.wrap_future(self._batcher.submit(pixels, index))
        except ValueError as error:
            raise Refusal(422, "no_score", str(error)) from error
        if not (np.isfinite(scored.score) and np.isfinite(scored.map).all()):
            raise Refusal(422, "no_score", "The model has no finite score for this image.")
        return await self.in_thread(self._result, scored, shown, size, image, question, index)

    def _open(
        self, data: bytes | bytearray, question: Question
    ) -> tuple[NDArray[np.uint8], Image.Image | None, tuple[int, int]]:
        picture = open_upload(data, self.reading)
        shown = small(picture) if question.map == "overlay" else None
        return self.model.prepare(picture), shown, (picture.height, picture.width)

    def _result(
        self,
        scored: Scored,
        shown: Image.Image | None,
        size: tuple[int, int],
        image: Part,
        question: Question,
        index: int,
    ) -> Result:
        card = self.model.calibration
        known = self.model.classes[index]
        name = question.class_name or known
        result = Result(
            scored.score, scored.map, shown or Image.new("RGB", (1, 1)), name, image.filename,
            question.threshold, map_range=self.model.map_range, source_size=size,
            calibration=None if card is None else card.entry(name), model_map=scored.map,
        )  # fmt: skip
        self.counters.image(known, result.pred_label)
        if (watch := self._watches.get(name)) is not None:
            self._watch(watch, name, scored.score)
        return result

    def _watch(self, watch: Watch, name: str, score: float) -> None:
        with self._watching:
            before = len(watch.windows)
            warned = watch.add([score])
            if len(watch.windows) > before:
                self.counters.drift(name, watch.windows[-1].body, watch.windows[-1].tail)
        for window in warned:
            LOG.warning(watch.message(window, name, f'zsad calibrate NEW_GOOD_IMAGES --class-name "{name}"'))

    async def row(self, image: Part, question: Question, index: int, timeout: float) -> dict[str, Any]:
        """Return the row of one image among many; with its error if there is no score."""
        begun = time.monotonic()
        try:
            result = await asyncio.wait_for(self.score(image, question, index), timeout)
            row = await self.in_thread(row_of, result, question)
        except Refusal as error:
            row = self._failed(image, question, index, error.message)
        except asyncio.TimeoutError:
            row = self._failed(image, question, index, f"The model took more than {timeout:g} s.")
        return {**row, **self.told(begun)}

    def _failed(self, image: Part, question: Question, index: int, error: str) -> dict[str, Any]:
        name = question.class_name or self.model.classes[index]
        row = Row(image.filename, class_name=name, error=error)
        return {**{key: getattr(row, key) for key in COLUMNS}, "map": None}

    def told(self, begun: float) -> dict[str, Any]:
        """Return what every answer says besides its row: the model, and how long it took."""
        return {"model": self._digest, "milliseconds": round(1000 * (time.monotonic() - begun), 1)}


def cores() -> int:
    """Return how many processors this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
