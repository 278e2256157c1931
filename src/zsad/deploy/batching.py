"""One thread owns the model; what waits at the same time and has the same size goes through it together."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from zsad.deploy.served import Served
from zsad.inference.opening import Opened
from zsad.inference.outcome import Outcome


class _Job(NamedTuple):
    opened: Opened
    future: "Future[Outcome]"


class Batcher:
    """A thread that scores pictures in batches.

    Args:
        model: Used by this thread only.
        batch_size: Most pictures of a pass.
        wait: Seconds that the first picture of a batch waits for others.
        seen: Called with the size of each batch.
    """

    def __init__(
        self, model: Served, batch_size: int = 8, wait: float = 0.005, seen: Callable[[int], None] = lambda size: None
    ) -> None:
        self.model, self.batch_size, self.wait, self._seen = model, batch_size, wait, seen
        self._jobs: deque[_Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="zsad-model", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, opened: Opened) -> "Future[Outcome]":
        """Return the future of a picture; a cancelled one is dropped unless its pass has begun.

        Raises:
            RuntimeError: The thread was closed.
        """
        job = _Job(opened, Future())
        with self._change:
            if self._closed:
                raise RuntimeError("The model takes no more pictures.")
            self._jobs.append(job)
            self._change.notify()
        return job.future

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            begun = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if begun:
                self._seen(len(begun))
                self._score(begun)

    def _next(self) -> list[_Job] | None:
        """The jobs of the next pass: those of the oldest one's size. None if there will be none."""
        with self._change:
            self._change.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return None
            end = time.monotonic() + self.wait
            while not self._closed and len(self._jobs) < self.batch_size and (left := end - time.monotonic()) > 0:
                self._change.wait(left)
            shape = self._jobs[0].opened.tensor.shape
            batch: list[_Job] = []
            others: deque[_Job] = deque()
            for job in self._jobs:
                fits = job.opened.tensor.shape == shape and len(batch) < self.batch_size
                (batch if fits else others).append(job)
            self._jobs = others
            return batch

    def _score(self, jobs: list[_Job]) -> None:
        """One pass; if it fails, one for each picture, so that a picture does not take others with it."""
        try:
            outcomes = self.model.outcomes([job.opened for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._score([job])
            return
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.future.set_result(outcome)
