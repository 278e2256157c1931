"""A server on loopback that can misbehave, and a table of adapters whose addresses lead to it."""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from zsad.weights import registry

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """A server on loopback whose answers a test decides."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []  # path and Range of every request
        self.cut_after: list[int] = []  # bytes after which each next answer breaks off
        self.first_answers: list[tuple[int, dict[str, str], bytes]] = []  # given before anything else
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.resumable = True
        self.with_length = True
        self.piece_pause = 0.0  # seconds after every 4 kB
        self.scheme = "http"

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that goes away is what some tests are about


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        content = self.server.files.get(self.path)
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        if server.first_answers:
            self._answer(*server.first_answers.pop(0))
            return
        if self.path in server.redirects:
            self._answer(302, {"Location": server.redirects[self.path]}, b"")
            return
        content = server.files.get(self.path)
        if content is None:
            self._answer(404, {}, b"")
            return
        start = int(re.sub(r"\D", "", asked)) if asked and server.resumable else 0
        if start and start >= len(content):
            self._answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        headers = dict(server.headers)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206 if start else 200, headers, content[start:], server.with_length)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, with_length: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if with_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cut_after.pop(0) if self.server.cut_after and body else len(body)
        for start in range(0, min(cut, len(body)), 4096):
            self.wfile.write(body[start : min(start + 4096, cut)])
            if self.server.piece_pause:
                time.sleep(self.server.piece_pause)

    def log_message(self, *args: Any) -> None:
        pass


def serve(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serve(Server())


@pytest.fixture
def other_server() -> Iterator[Server]:
    yield from serve(Server())


@pytest.fixture
def secure_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with a certificate of its own, which clients of this process trust."""
    here = Path(__file__).parent
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(here / "loopback.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme = "https"
    monkeypatch.setenv("SSL_CERT_FILE", str(here / "loopback.pem"))
    yield from serve(server)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test, and an environment that asks for nothing special."""
    for name in ("HF_HUB_OFFLINE", "ZSAD_OFFLINE", "ZSAD_WEIGHTS_MIRROR", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZSAD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def git_blob(content: bytes) -> str:
    """git's own answer where git is, else the definition."""
    try:
        made = subprocess.run(
            ["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return made.stdout.decode().strip()


def prompts_file(path: Path, backbone_width: int = 128, seed: int = 0, **changed: torch.Tensor | None) -> bytes:
    """A file in the layout of AnomalyCLIP's training script, for the embedded backbone's text tower."""
    random = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    state: dict[str, Any] = {
        "ctx_pos": numbers(1, 1, 12, backbone_width),
        "ctx_neg": numbers(1, 1, 12, backbone_width),
        **{f"compound_prompts_text.{index}": numbers(4, backbone_width) for index in range(2)},
        **{f"token_prefix_{side}": numbers(1, 1, 1, backbone_width) for side in ("pos", "neg")},
        **{f"token_suffix_{side}": numbers(1, 1, 64, backbone_width) for side in ("pos", "neg")},
    }
    state |= changed
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"prompt_learner": {name: value for name, value in state.items() if value is not None}}, path)
    return path.read_bytes()


@dataclass
class Published:
    """A table of one's own and the server behind it."""

    server: Server
    path: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def publish(self, name: str, content: bytes, **row: Any) -> str:
        """Put a file on the server and a row into the table; return the path that the server gives it."""
        place = f"/owner/repository/{COMMIT}/{name}.pth"
        self.server.files[place] = content
        made: dict[str, Any] = {
            "status": "ready",
            "method": "AnomalyCLIP",
            "backbone": "zsad-mini",
            "options": {"n_ctx": 12, "depth": 3, "n_deep": 4},
            "trained_on": {"name": "visa", "split": "test", "epochs": 15},
            "source": {
                "kind": "github_raw",
                "repository": "owner/repository",
                "commit": COMMIT,
                "path": f"{name}.pth",
            },
            "git_blob": git_blob(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "layout": "anomalyclip",
            "licence": {"code": "MIT", "weights": "not stated"},
        }
        self.rows[name] = made | row
        self.write()
        return place

    def write(self) -> None:
        content = yaml.safe_load(self.original.read_text(encoding="utf-8"))
        base = self.server.url("")
        content["url_forms"] |= {
            kind: f"{base}/{{repository}}/{{commit}}/{{path}}" for kind in ("github_raw", "github_lfs")
        }
        content["adapters"] = self.rows
        self.path.write_text(yaml.safe_dump(content), encoding="utf-8")
        registry._content.cache_clear()
        registry._table.cache_clear()

    original = registry.TABLE


@pytest.fixture
def published(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    made = Published(server, tmp_path / "table.yaml")
    monkeypatch.setattr(registry, "TABLE", made.path)
    made.write()
    yield made
    registry._content.cache_clear()
    registry._table.cache_clear()
