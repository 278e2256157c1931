"""A real server in a thread, on a free port, and the pictures that are sent to it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from PIL import Image

from zsad.deploy.engine import Engine
from zsad.deploy.serve import Server
from zsad.deploy.serve_options import PAGE_FOLDER, Options
from zsad.deploy.served import Served
from zsad.deploy.service import Service
from zsad.images.levels import ReadOptions


@contextmanager
def serving(model: Served, **options: Any) -> Iterator[Server]:
    """A server that has warmed up; it ends by draining."""
    chosen = Options(**{"port": 0, "page": PAGE_FOLDER, **options})
    engine = Engine(model, ReadOptions(max_pixels=chosen.max_pixels), chosen.batch_size, chosen.batch_wait)
    server = Server(Service(engine, chosen))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started and engine.ready)
        yield server
    finally:
        assert server._loop is not None
        server._loop.call_soon_threadsafe(server.end)
        thread.join(60)
        assert not thread.is_alive()


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def client(server: Server, **more: Any) -> httpx.Client:
    return httpx.Client(base_url=server.address, timeout=60, trust_env=False, **more)


def picture(seed: int, size: tuple[int, int] = (60, 80), mode: str = "RGB") -> Image.Image:
    """A smooth picture with some noise, (height, width)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    values = np.asarray(small.resize((size[1], size[0]), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((values + rng.integers(-8, 9, values.shape)).clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "png", **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, whose form is always the same."""
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message"}
    assert len(answer.headers["x-request-id"]) == 16
    return answer.status_code, answer.json()["error"]["code"]
