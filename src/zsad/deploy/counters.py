"""What a server has done, as Prometheus reads it: text format 0.0.4, without a package."""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        found, below = [], 0
        for bound, count in zip((*map(_number, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*found, f"{name}_sum {_number(self.total)}", f"{name}_count {below}"]


class Counters:
    """Counts of requests, images, alarms and batches; safe to use from several threads.

    Args:
        queue: Returns how many pictures wait.
    """

    def __init__(self, queue: Callable[[], int] = lambda: 0) -> None:
        self.queue = queue
        self._lock = threading.Lock()
        self._requests: dict[Labels, int] = defaultdict(int)
        self._images: dict[Labels, int] = defaultdict(int)
        self._alarms: dict[Labels, int] = defaultdict(int)
        self._drift: dict[Labels, float] = {}
        self._seconds, self._batches = _Histogram(SECONDS), _Histogram(SIZES)

    def request(self, route: str, code: int, seconds: float) -> None:
        """Count an answer; the time goes into the histogram if a picture was scored."""
        with self._lock:
            self._requests[("route", route), ("code", str(code))] += 1
            if code == 200 and route.startswith("/v1/score"):
                self._seconds.add(seconds)

    def image(self, class_name: str, label: int | None) -> None:
        """Count a picture that has a score."""
        with self._lock:
            self._images[(("class", class_name),)] += 1
            if label is not None:
                self._alarms[(("class", class_name),)] += label

    def batch(self, size: int) -> None:
        """Count a pass through the model."""
        with self._lock:
            self._batches.add(size)

    def drift(self, class_name: str, body: float, tail: float) -> None:
        """Note the p-values of a class's latest window."""
        with self._lock:
            self._drift[("class", class_name), ("of", "body")] = body
            self._drift[("class", class_name), ("of", "alarms")] = tail

    def text(self) -> str:
        """Return everything in the text format."""
        with self._lock:
            lines = _counter("zsad_requests_total", "Answers by route and status.", self._requests)
            lines += _counter("zsad_images_total", "Pictures with a score, by class.", self._images)
            lines += _counter("zsad_alarms_total", "Pictures labelled anomalous, by class.", self._alarms)
            lines += _head("zsad_drift_p_value", "p-values of the latest window of images.", "gauge")
            lines += [f"zsad_drift_p_value{_labels(key)} {_number(value)}" for key, value in self._drift.items()]
            lines += _head("zsad_queue_length", "Pictures that wait for the model.", "gauge")
            lines += [f"zsad_queue_length {self.queue()}"]
            lines += _head("zsad_request_seconds", "Time of answers with a score.", "histogram")
            lines += self._seconds.lines("zsad_request_seconds")
            lines += _head("zsad_batch_size", "Pictures of a pass through the model.", "histogram")
            lines += self._batches.lines("zsad_batch_size")
        return "\n".join(lines) + "\n"


def _counter(name: str, what: str, values: dict[Labels, int]) -> list[str]:
    return [*_head(name, what, "counter"), *(f"{name}{_labels(key)} {value}" for key, value in values.items())]


def _head(name: str, what: str, kind: str) -> list[str]:
    return [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return f"{value:.10g}"
