"""What every request passes before a route sees it: an id, the names of this server, origins, the token, the log."""

import hmac
import ipaddress
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from zsad.deploy.counters import Counters
from zsad.deploy.refusals import Refusal

LOG = logging.getLogger("zsad.serve")
"""One line per request: id, method, route, status, milliseconds. No file name, no query, no address."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
GONE = 499
"""Counted where the client left before its answer; nobody gets to see it."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class Doors:
    """Who may ask for what.

    Args:
        token: Of ``Authorization: Bearer``; None where nobody else can reach the server.
        names: Host names under which the server answers.
        addresses: Whether it also answers under any address (a number cannot be bound to another one by a name
            server).
        origins: Of pages elsewhere that may ask too.
        open: Routes that need no token.
        routes: All of them; others are not named in log and metrics.
    """

    token: str | None
    names: Collection[str]
    addresses: bool
    origins: Collection[str] = ()
    open: Collection[str] = ()
    routes: Collection[str] = field(default=())

    def refuse(self, method: str, path: str, headers: Headers) -> None:
        """Raise unless a request may pass.

        Raises:
            Refusal: 400 for a foreign host, 403 for a foreign page, 401 without the token.
        """
        host = headers.get("host", "")
        if not self._known(host):
            raise Refusal(400, "foreign_host", "This server has another name; --allow-host adds one.")
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and urlsplit(origin).netloc != host:
            raise Refusal(403, "foreign_origin", "Pages of other servers may not ask here; --allow-origin adds one.")
        if self.token is None or path in self.open or (method == "OPTIONS" and origin in self.origins):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.token.encode("utf-8"))
        if scheme.lower() != "bearer" or not same:
            headers_ = {"WWW-Authenticate": 'Bearer realm="zsad"'}
            raise Refusal(401, "no_token", "This needs the server's token: Authorization: Bearer TOKEN.", headers_)

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.addresses


class Guard:
    """The outermost application: it refuses, names, counts and logs every request, and answers for what fails.

    Args:
        app: What is behind it.
        doors: Who may pass.
        counters: Of the server.
    """

    def __init__(self, app: App, doors: Doors, counters: Counters) -> None:
        self.app, self.doors, self.counters = app, doors, counters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request; everything else (start and end of the server) passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        identity, begun, status = secrets.token_hex(8), time.monotonic(), GONE
        method = scope["method"]
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        route = path if path in self.doors.routes else "-"

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = identity
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self.doors.refuse(method, path, Headers(scope=scope))
            await self.app({**scope, "app": self}, receive, answer)  # routes raise where there is an app to answer
        except ClientDisconnect:
            status = GONE
        except Exception as error:
            if status != GONE:  # an answer is under way and cannot be taken back
                raise
            if not isinstance(error, (Refusal, HTTPException)):
                LOG.error("%s failed", identity, exc_info=error)
            await refused(error)(scope, receive, answer)
        finally:
            seconds = time.monotonic() - begun
            self.counters.request(route, status, seconds)
            LOG.info("%s %s %s %s %.0f ms", identity, method, route, status, 1000 * seconds)


def refused(error: Exception) -> JSONResponse:
    """Return the answer to a request that failed: the sentence of a refusal, none of anything else."""
    if isinstance(error, HTTPException):
        error = Refusal(error.status_code, "no_route", f"{error.detail}.", dict(error.headers or {}))
    if not isinstance(error, Refusal):
        error = Refusal(500, "internal", "Something failed in the server; its log says more under this request's id.")
    return JSONResponse(error.content, error.status, error.headers)
