"""How a server behaves, and its arguments: the same for ``zsad serve`` and the ``run.py`` of an exported folder."""

import argparse
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from zsad.deploy.guards import LOOPBACK, Doors
from zsad.images.levels import read_count

PAGE_FOLDER = Path(__file__).parent / "page"
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
"""Route of a file -> its name and kind."""

TOKEN = "ZSAD_TOKEN"
"""Environment variable of the token."""


@dataclass(frozen=True)
class Options:
    """How a server behaves.

    Args:
        host: Address to listen on; one that others can reach needs a token.
        port: 0 takes a free one.
        token: Asked for in ``Authorization: Bearer``.
        names: Further host names under which the server answers.
        origins: Pages elsewhere that may ask, such as ``https://line.example``.
        max_bytes: Most bytes of a body.
        max_pixels: Most pixels of an image.
        queue: Most requests that are read, waited for or answered at a time.
        batch_size: Most images of a pass through the model.
        batch_wait: Seconds that an image waits for others.
        timeout: Seconds for a request, its body included.
        page: Folder of the page; None for none.
        root_path: Path below which a proxy shows the server.
        certificate: TLS: files of the certificate and of its key.

    Raises:
        ValueError: The address can be reached by others and there is no token, or a value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    names: Collection[str] = ()
    origins: Collection[str] = ()
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    queue: int = 64
    batch_size: int = 8
    batch_wait: float = 0.005
    timeout: float = 30.0
    page: Path | None = None
    root_path: str = ""
    certificate: tuple[Path, Path] | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "queue", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not (self.timeout > 0 and self.batch_wait >= 0):
            raise ValueError(
                f"timeout={self.timeout} must be more than 0 s, batch_wait={self.batch_wait} at least 0 s."
            )
        if self.token is not None and (
            len(self.token) < 16 or not self.token.isascii() or not self.token.isprintable()
        ):
            raise ValueError("A token is at least 16 printable ASCII characters; 'openssl rand -hex 32' makes one.")
        if self.host not in LOOPBACK and self.token is None:
            raise ValueError(
                f"host={self.host} can be reached by others, so a token is needed: --token-file FILE or ZSAD_TOKEN; "
                f"or listen on 127.0.0.1."
            )

    def doors(self, routes: Collection[str]) -> Doors:
        """Return who may pass."""
        public = self.host not in LOOPBACK
        names = {*LOOPBACK, *(name.lower() for name in self.names), self.host}
        if public:
            names.add(socket.gethostname().lower())
        return Doors(self.token, names, public, self.origins, {*PAGE, "/healthz", "/readyz", "/favicon.ico"}, routes)


def add_serve_options(made: argparse.ArgumentParser) -> None:
    """Add them to a parser."""
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    made.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    made.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"holds the token that clients send; or set {TOKEN}"
    )
    made.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another name of this server; may be repeated"
    )
    made.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="pages of another server that may ask, 'https://line.example'; may be repeated",
    )
    made.add_argument("--max-bytes", type=read_count, default=20_000_000, metavar="N", help="of a body (default: 20M)")
    made.add_argument(
        "--max-pixels", type=read_count, default=50_000_000, metavar="N", help="of an image (default: 50M)"
    )
    made.add_argument("--queue", type=int, default=64, help="requests at a time; more get 503 (default: %(default)s)")
    made.add_argument("--batch-size", type=int, default=8, help="images per pass at most (default: %(default)s)")
    made.add_argument("--batch-wait-ms", type=float, default=5.0, help="for others to join (default: %(default)g)")
    made.add_argument("--timeout", type=float, default=30.0, help="seconds for a request (default: %(default)g)")
    made.add_argument("--no-page", action="store_true", help="only the routes for programs")
    made.add_argument("--root-path", default="", metavar="/x", help="path below which a proxy shows this server")
    made.add_argument("--ssl-certfile", type=Path, metavar="FILE", help="TLS without a proxy")
    made.add_argument("--ssl-keyfile", type=Path, metavar="FILE", help="its key")


def read_serve_options(args: argparse.Namespace, page: Path) -> Options:
    """Return the options that were typed.

    Args:
        args: Of :func:`add_serve_options`.
        page: Folder of the page.

    Raises:
        OSError: The token's file cannot be read.
        ValueError: A value is out of range, or a token is needed.
    """
    token = os.environ.get(TOKEN)
    if args.token_file is not None:
        token = args.token_file.read_text(encoding="utf-8").strip()
    if (args.ssl_certfile is None) != (args.ssl_keyfile is None):
        raise ValueError("--ssl-certfile and --ssl-keyfile go together.")
    return Options(
        args.host, args.port, token, args.allow_host, args.allow_origin, args.max_bytes, args.max_pixels, args.queue,
        args.batch_size, args.batch_wait_ms / 1000, args.timeout, None if args.no_page else page, args.root_path,
        None if args.ssl_certfile is None else (args.ssl_certfile, args.ssl_keyfile),
    )  # fmt: skip
