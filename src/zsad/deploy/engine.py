"""From the bytes of an image to its result: decoded in threads, scored by one, counted and watched."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from PIL import Image

from zsad.decision.card_json import CardError
from zsad.decision.drift import Watch, watch_of
from zsad.deploy.answers import SHOWN, Question, row_of
from zsad.deploy.batching import Batcher
from zsad.deploy.bodies import Part
from zsad.deploy.counters import Counters
from zsad.deploy.guards import LOG
from zsad.deploy.refusals import Refusal
from zsad.deploy.served import Served
from zsad.deploy.summary import digest
from zsad.deploy.uploads import open_upload
from zsad.images.levels import ReadOptions
from zsad.inference.opening import Opened, Opener, Size
from zsad.inference.outcome import Outcome
from zsad.inference.result import Result
from zsad.inference.rows import COLUMNS, Row

NO_PICTURE: Size = 1
"""Size of the picture of a result of which only numbers are wanted."""

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

        def done(future: "Future[Outcome]") -> None:
            error = future.exception() or future.result().error
            self.ready = error is None
            if error is not None:
                LOG.error("the model does not score: %s", error)

        grey = Image.new("RGB", (64, 64), (128, 128, 128))
        opened = Opener(self.model.prepare, self.reading, NO_PICTURE)((grey, self.model.classes[0]))
        self._batcher.submit(opened).add_done_callback(done)

    def close(self) -> None:
        """Finish what was begun, then end the threads."""
        self._pool.shutdown()
        self._batcher.close()

    def check(self, question: Question) -> str:
        """Return the class that is asked about.

        Raises:
            Refusal: 422; the model or the card has no such class, or what is asked for needs a card.
        """
        card, classes = self.model.calibration, self.model.classes
        name = question.class_name or classes[0]
        if question.class_name is None and len(classes) > 1:
            raise Refusal(422, "class_name", f"Say which class is meant: {', '.join(classes)}.")
        if not (self.model.meta["class_agnostic"] or name in classes):
            raise Refusal(422, "class_name", f"This server knows the classes {', '.join(classes)}, and not this one.")
        try:
            entry = None if card is None else card.entry(name)
        except CardError as error:
            raise Refusal(422, "class_name", "The calibration of this server does not have this class.") from error
        if card is not None and question.threshold is not None:
            raise Refusal(422, "threshold", "The calibration decides here; ask without a threshold.")
        if question.regions and (entry is None or entry.regions is None):
            raise Refusal(422, "regions", "Regions need a calibration of maps, which this server does not have.")
        return name

    async def in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Return what a function gives, computed beside the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def score(self, image: Part, question: Question, class_name: str) -> Result:
        """Return the result of an image; its map has the model's size, or that of the overlay that was asked for.

        Raises:
            Refusal: 422; it cannot be read, or the model has no score for it.
        """
        size: Size = SHOWN if question.map == "overlay" else NO_PICTURE
        opened = await self.in_thread(self._open, image.data, class_name, size)
        image.data = b""  # it may wait long
        outcome = await asyncio.wrap_future(self._batcher.submit(opened))
        if outcome.error is not None:
            raise Refusal(422, "no_score", str(outcome.error))
        return await self.in_thread(self._result, opened, outcome, question, size)

    def _open(self, data: bytes | bytearray, class_name: str, size: Size) -> Opened:
        pixels = self.model.calibration is not None
        opener = Opener(self.model.prepare, self.reading, size, strict=True, pixels=pixels)
        return opener((open_upload(data, self.reading), class_name))

    def _result(self, opened: Opened, outcome: Outcome, question: Question, size: Size) -> Result:
        (result,) = self.model.results_of([opened], [outcome], question.threshold, False, size)
        if size == NO_PICTURE:
            result = replace(result, anomaly_map=outcome.map)
        name = opened.class_name
        self.counters.image(name if name in self.model.classes else "other", result.pred_label)
        if (watch := self._watches.get(name)) is not None:
            self._watch(watch, name, result.pred_score)
        return result

    def _watch(self, watch: Watch, name: str, score: float) -> None:
        with self._watching:
            before = len(watch.windows)
            warned = watch.add([score])
            if len(watch.windows) > before:
                self.counters.drift(name, watch.windows[-1].body, watch.windows[-1].tail)
        for window in warned:
            LOG.warning(watch.message(window, name, f'zsad calibrate NEW_GOOD_IMAGES --class-name "{name}"'))

    async def row(self, image: Part, question: Question, class_name: str, timeout: float) -> dict[str, Any]:
        """Return the row of one image among many; with its error if there is no score."""
        begun = time.monotonic()
        try:
            result = await asyncio.wait_for(self.score(image, question, class_name), timeout)
            row = await self.in_thread(row_of, result, question, image.filename)
        except Refusal as error:
            row = _failed(image, class_name, error.message)
        except asyncio.TimeoutError:
            row = _failed(image, class_name, f"The model took more than {timeout:g} s.")
        return {**row, **self.told(begun)}

    def told(self, begun: float) -> dict[str, Any]:
        """Return what every answer says besides its row: the model, and how long it took."""
        return {"model": self._digest, "milliseconds": round(1000 * (time.monotonic() - begun), 1)}


def _failed(image: Part, class_name: str, error: str) -> dict[str, Any]:
    row = Row(image.filename, class_name=class_name, error=error)
    return {**{key: getattr(row, key) for key in COLUMNS}, "map": None}


def cores() -> int:
    """Return how many processors this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
