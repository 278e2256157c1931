"""A model behind HTTP, and an end that loses none of the requests that it has accepted."""

import asyncio
import logging
import signal
import socket
import time
import warnings
from types import FrameType

import uvicorn
from PIL import Image

from zsad.deploy.engine import Engine
from zsad.deploy.guards import LOG
from zsad.deploy.serve_options import Options
from zsad.deploy.service import Service

DRAIN = 30.0
"""Seconds that accepted requests have to finish once the server is told to end."""


class Server(uvicorn.Server):
    """A server that ends only when what it has accepted is answered.

    Args:
        service: Its routes.
    """

    def __init__(self, service: Service) -> None:
        options = service.options
        certificate, key = options.certificate or (None, None)
        config = uvicorn.Config(
            service.app(), options.host, options.port, log_config=None, access_log=False, server_header=False,
            proxy_headers=False, root_path=options.root_path, http="h11", ws="none", lifespan="on",
            limit_concurrency=options.queue + 960, timeout_graceful_shutdown=5,
            ssl_certfile=certificate, ssl_keyfile=key,
        )  # fmt: skip
        super().__init__(config)
        self.service = service
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def address(self) -> str:
        """Where it listens, once it has started."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "https" if self.service.options.certificate else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and remember the loop that a signal speaks to."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            LOG.info("listening on %s%s", self.address, self.service.options.root_path)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if self.service.draining and sig == signal.SIGINT:
            self.force_exit = self.should_exit = True
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self.end)

    def end(self) -> None:
        """Refuse new pictures, and stop when the accepted ones are answered or :data:`DRAIN` is over."""
        if not self.service.draining:
            self.service.draining = True
            self._end = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        until = time.monotonic() + DRAIN
        while self.service.active and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self.should_exit = True


def serve(engine: Engine, options: Options) -> int:
    """Run a server until it is told to end; return the exit status."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, options.max_pixels)  # ours takes its place
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    logging.basicConfig(format="%(asctime)s %(message)s")  # where nobody else said where to
    LOG.setLevel(logging.INFO)
    service = Service(engine, options)
    server = Server(service)
    server.run()
    LOG.info("ended: %d accepted, %d unanswered", service.accepted, service.active)
    return 0 if server.started else 1
