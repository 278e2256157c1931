"""The routes of a server: pictures come in, rows go out, in bounded time and memory."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from zsad.deploy.answers import Question, picture_of, row_of
from zsad.deploy.bodies import Part, read_parts
from zsad.deploy.engine import Engine
from zsad.deploy.guards import App, Guard
from zsad.deploy.refusals import Refusal
from zsad.deploy.serve_options import PAGE, Options
from zsad.deploy.summary import summary

MOST_IMAGES = 32
"""Images of one request."""

_T = TypeVar("_T")


class Service:
    """The routes and what they share.

    Args:
        engine: Of the model.
        options: Of the server.
    """

    def __init__(self, engine: Engine, options: Options) -> None:
        self.engine, self.options = engine, options
        self.draining = False
        self.active = self.accepted = 0

    def app(self) -> App:
        """Return the application, guarded."""
        routes = [
            Route("/v1/score", self.score, methods=["POST"]),
            Route("/v1/score-many", self.score_many, methods=["POST"]),
            Route("/v1/model", self.model),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
        ]
        if self.options.page is not None:
            files = {route: (self.options.page / name).read_bytes() for route, (name, _) in PAGE.items()}
            routes += [Route(route, _file(content, PAGE[route][1])) for route, content in files.items()]
            routes.append(Route("/favicon.ico", lambda request: Response(status_code=204)))
        router: Any = Router(routes, lifespan=self._lifespan)
        if self.options.origins:
            router = CORSMiddleware(
                router, allow_origins=list(self.options.origins), allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type"], expose_headers=["x-request-id", "retry-after"],
            )  # fmt: skip
        doors = self.options.doors([route.path for route in routes])
        return Guard(router, doors, self.engine.counters)

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        self.engine.warm_up()
        try:
            yield
        finally:
            await asyncio.to_thread(self.engine.close)

    def admit(self) -> None:
        """Take one of the places, before the body is read.

        Raises:
            Refusal: 503; none is free, or the server is about to end.
        """
        if self.draining:
            raise Refusal(503, "ending", "The server is about to end.", {"Retry-After": "5", "Connection": "close"})
        if self.active >= self.options.queue:
            raise Refusal(503, "full", "The queue is full; try again.", {"Retry-After": "1", "Connection": "close"})
        self.active += 1
        self.accepted += 1

    def leave(self) -> None:
        """Give the place back."""
        self.active -= 1

    async def score(self, request: Request) -> Response:
        """``POST /v1/score``: one image, raw or as the field ``image``; its row, or the picture that was asked for."""
        self.admit()
        try:
            begun = time.monotonic()
            question, class_name, images = await self._asked(request, 1)
            drawn = request.headers.get("accept", "") == "image/png"
            if drawn and question.map not in ("png", "overlay"):
                raise Refusal(406, "no_picture", "Accept: image/png goes with map=png or map=overlay.")
            scoring = self.engine.score(images[0], question, class_name)
            result = await _unless_gone(request, _within(self.options.timeout, scoring, 504, "The model"))
            if drawn:
                png = await self.engine.in_thread(picture_of, result, question)
                return Response(png, headers={"X-Score": repr(result.pred_score)}, media_type="image/png")
            row = await self.engine.in_thread(row_of, result, question, images[0].filename)
            return JSONResponse({**row, **self.engine.told(begun)})
        finally:
            self.leave()

    async def score_many(self, request: Request) -> Response:
        """``POST /v1/score-many``: a form of images; one line of JSON for each, in order, also for a broken one."""
        self.admit()
        try:
            question, class_name, images = await self._asked(request, MOST_IMAGES)
        except BaseException:
            self.leave()
            raise

        async def rows() -> AsyncIterator[bytes]:
            waiting: deque[asyncio.Future[dict[str, Any]]] = deque()
            try:
                for image in images:
                    one = self.engine.row(image, question, class_name, self.options.timeout)
                    waiting.append(asyncio.ensure_future(one))
                    if len(waiting) >= self.options.batch_size:
                        yield _line(await waiting.popleft())
                while waiting:
                    yield _line(await waiting.popleft())
            finally:
                for left in waiting:
                    left.cancel()

        return _Rows(rows(), self.leave)

    async def _asked(self, request: Request, most: int) -> tuple[Question, str, list[Part]]:
        """The question, its class, and the images of the body."""
        question = Question.read(request.query_params)
        class_name = self.engine.check(question)
        reading = read_parts(request, self.options.max_bytes)
        parts = await _within(self.options.timeout, reading, 408, "The body")
        images = [one for one in parts if one.name == "image"]
        if not 1 <= len(images) <= most:
            raise Refusal(400, "images", f"The form has {len(images)} fields 'image'; 1 to {most} are read here.")
        return question, class_name, images

    async def model(self, request: Request) -> Response:
        """``GET /v1/model``: what the model is, its classes and its card, without paths of this machine."""
        return JSONResponse(summary(self.engine.model))

    async def healthz(self, request: Request) -> Response:
        """``GET /healthz``: the process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """``GET /readyz``: the model has scored once, and the server is not about to end."""
        ready = self.engine.ready and not self.draining
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``: counts for Prometheus."""
        return PlainTextResponse(self.engine.counters.text(), media_type="text/plain; version=0.0.4")


class _Rows(StreamingResponse):
    """Lines that are sent as they come; the place is given back whether or not anybody reads them."""

    def __init__(self, lines: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self._leave = leave

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _file(content: bytes, kind: str) -> Callable[[Request], Response]:
    return lambda request: Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})


async def _within(seconds: float, work: Awaitable[_T], status: int, what: str) -> _T:
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError as error:
        close = {"Connection": "close"} if status == 408 else {}
        raise Refusal(status, "timeout", f"{what} took more than {seconds:g} s.", close) from error


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Wait for work, which is dropped when the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
