"""A server answers as the predictor does, and refuses what it should, over real sockets."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.deploy.serving import client, encoded, error_of, picture, serving, wait_for
from zsad import Predictor
from zsad.deploy.live import Live
from zsad.deploy.serve import Server
from zsad.deploy.serve_options import Options
from zsad.inference.opening import Opened
from zsad.inference.outcome import Outcome

TOKEN = "0123456789abcdef-secret"
WOOD = {"class_name": "wood"}


@pytest.mark.parametrize(
    ("kind", "more"),
    [("png", {}), ("jpeg", {}), ("bmp", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"}), ("webp", {})],
)
def test_each_format_scores_as_in_the_predictor(
    web: httpx.Client, predictor: Predictor, kind: str, more: dict[str, Any]
) -> None:
    data = encoded(picture(1), kind, **more)
    answer = web.post("/v1/score", params=WOOD, content=data, headers={"Content-Type": "image/png"})  # content decides
    assert answer.status_code == 200
    row = answer.json()
    assert row["score"] == pytest.approx(predictor.predict(data, "wood").pred_score, abs=1e-6)
    assert (row["width"], row["height"], row["class_name"]) == (80, 60, "wood")
    assert row["error"] is row["label"] is row["p_value"] is row["map"] is None


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "CMYK"])
def test_modes_are_read_as_from_a_file(web: httpx.Client, predictor: Predictor, tmp_path: Path, mode: str) -> None:
    image = picture(2, mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 16)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    row = web.post("/v1/score", params=WOOD, content=path.read_bytes()).json()
    assert row["score"] == pytest.approx(predictor.predict(path, "wood").pred_score, abs=1e-6)


def test_a_turned_photo_is_upright(web: httpx.Client, predictor: Predictor) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(3), "jpeg", exif=exif)
    row = web.post("/v1/score", params=WOOD, content=data).json()
    assert (row["width"], row["height"]) == (60, 80)
    assert row["score"] == pytest.approx(predictor.predict(data, "wood").pred_score, abs=1e-6)


def test_maps_of_all_kinds_are_the_models_own(web: httpx.Client, predictor: Predictor) -> None:
    data = encoded(picture(4))
    own = predictor.predict(data, "wood", size="model").anomaly_map

    def asked(kind: str, **more: str) -> tuple[dict[str, Any], bytes]:
        given = web.post("/v1/score", params={**WOOD, "map": kind, **more}, content=data).json()["map"]
        return given, base64.b64decode(given["data"])

    _, raw = asked("npy")
    np.testing.assert_allclose(np.load(io.BytesIO(raw)), own, atol=1e-6)
    given, raw = asked("levels")
    step = (given["high"] - given["low"]) / 65535
    levels = np.frombuffer(raw, "<u2").reshape(given["height"], given["width"])
    np.testing.assert_allclose(given["low"] + step * levels, own, atol=step / 2 + 1e-6)
    _, raw = asked("png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(raw))), levels)
    given, raw = asked("overlay", scale="image")
    expected = predictor.predict(data, "wood").overlay("image")
    assert Image.open(io.BytesIO(raw)).size == (given["width"], given["height"]) == expected.size
    seen = np.asarray(Image.open(io.BytesIO(raw))).astype(int)
    assert np.abs(seen - np.asarray(expected)).mean() < 3  # enlarged once instead of twice


def test_a_picture_as_the_body(web: httpx.Client) -> None:
    data, headers = encoded(picture(5)), {"Accept": "image/png"}
    answer = web.post("/v1/score", params={**WOOD, "map": "overlay"}, content=data, headers=headers)
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (80, 60)
    assert error_of(web.post("/v1/score", params=WOOD, content=data, headers=headers)) == (406, "no_picture")


def test_many_images_keep_their_order_and_a_broken_one_is_a_row(web: httpx.Client, predictor: Predictor) -> None:
    images = [encoded(picture(seed)) for seed in range(12)]
    images[5] = images[5][:200]
    files = [("image", (f"{number}.png", data)) for number, data in enumerate(images)]
    answer = web.post("/v1/score-many", params=WOOD, files=files)
    assert answer.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["path"] for row in rows] == [f"{number}.png" for number in range(12)]
    assert rows[5]["score"] is None
    assert "truncated" in rows[5]["error"]
    del rows[5], images[5]
    expected = [result.pred_score for result in predictor.predict(images, "wood")]
    assert [row["score"] for row in rows] == pytest.approx(expected, abs=1e-6)


def test_results_do_not_depend_on_the_batch(server: Server, predictor: Predictor) -> None:
    """Sixteen clients at a time, with images of two sizes of file and two classes."""
    images = [encoded(picture(seed, (48, 64) if seed % 2 else (90, 70))) for seed in range(20)]

    def one(number: int) -> list[float]:
        name = {"class_name": ("wood", "coin")[number % 2]}
        with client(server) as web:
            return [web.post("/v1/score", params=name, content=data).json()["score"] for data in images]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(one, range(16)))
    for place, name in enumerate(("wood", "coin")):
        expected = [predictor.predict(data, name).pred_score for data in images]
        for scores in found[place::2]:
            assert scores == pytest.approx(expected, abs=1e-6)
    text = httpx.get(f"{server.address}/metrics", trust_env=False).text
    passes, sizes = (float(text.split(f"zsad_batch_size_{what} ")[1].split()[0]) for what in ("count", "sum"))
    assert sizes > passes  # they did go through together


def bomb() -> bytes:
    """A PNG file of 80 bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


NOT_IMAGES = {
    "bomb": (bomb(), "too_many_pixels"),
    "large": (encoded(Image.new("L", (8000, 7000))), "too_many_pixels"),
    "cut": (encoded(picture(1, (400, 300)), "jpeg")[:3000], "broken_image"),
    "text": (b"no image at all, but some words", "not_an_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not_an_image"),
    "gif": (encoded(picture(1), "gif"), "not_an_image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
    "nothing": (b"", "empty"),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_image_is_told_in_a_sentence(web: httpx.Client, name: str) -> None:
    data, code = NOT_IMAGES[name]
    answer = web.post("/v1/score", params=WOOD, content=data)
    assert error_of(answer) == (422, code)
    assert "/" not in answer.json()["error"]["message"]  # no path
    assert "0x" not in answer.json()["error"]["message"]  # and no address of memory


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, (422, "class_name")),
        ({"class_name": "bottle"}, (422, "class_name")),
        ({**WOOD, "treshold": "1"}, (400, "bad_query")),
        ({**WOOD, "threshold": "nan"}, (400, "bad_query")),
        ({**WOOD, "map": "svg"}, (400, "bad_query")),
        ({**WOOD, "scale": "2,1"}, (400, "bad_query")),
        ({**WOOD, "regions": "yes"}, (400, "bad_query")),
        ({**WOOD, "regions": "1"}, (422, "regions")),
    ],
)
def test_questions_that_are_not_understood(web: httpx.Client, query: dict[str, str], expected: tuple[int, str]) -> None:
    assert error_of(web.post("/v1/score", params=query, content=encoded(picture(1)))) == expected


def test_a_threshold_gives_labels(web: httpx.Client) -> None:
    data = encoded(picture(6))
    score = web.post("/v1/score", params=WOOD, content=data).json()["score"]
    for threshold, label in ((score, 1), (score + 1e-3, 0)):
        row = web.post("/v1/score", params={**WOOD, "threshold": repr(threshold)}, content=data).json()
        assert row["label"] == label


def test_forms_that_are_none(web: httpx.Client) -> None:
    files = {"other": ("a.png", encoded(picture(1)))}
    assert error_of(web.post("/v1/score", params=WOOD, files=files)) == (400, "images")
    many = [("image", (f"{number}.png", b"x")) for number in range(33)]
    assert error_of(web.post("/v1/score-many", params=WOOD, files=many)) == (400, "images")
    more = [("image", ("a.png", b"x"))] * 41
    assert error_of(web.post("/v1/score-many", params=WOOD, files=more)) == (413, "too_many_parts")
    kind = {"Content-Type": "multipart/form-data; boundary=here"}
    for body in (b"--here\r\nContent-Disposition: form-data; name=image\r\n\r\nx", b"no form", b""):
        assert error_of(web.post("/v1/score", params=WOOD, content=body, headers=kind)) == (400, "bad_form")
    kind = {"Content-Type": "multipart/form-data"}
    assert error_of(web.post("/v1/score", params=WOOD, content=b"x", headers=kind)) == (400, "bad_form")


def test_routes_that_are_not_there(web: httpx.Client) -> None:
    assert error_of(web.get("/v1/nothing")) == (404, "no_route")
    assert error_of(web.get("/v1/score")) == (405, "no_route")
    assert error_of(web.get("/page/../../serve.py")) == (404, "no_route")
    assert error_of(web.get("/%2e%2e/serve.py")) == (404, "no_route")


def test_bytes_beyond_the_limit_are_not_awaited(live: Live) -> None:
    with serving(live, max_bytes=1000) as server, client(server) as web:
        assert error_of(web.post("/v1/score", params=WOOD, content=bytes(1001))) == (413, "too_large")
        files = {"image": ("a.png", bytes(1000))}  # together with the form's own lines
        assert error_of(web.post("/v1/score", params=WOOD, files=files)) == (413, "too_large")
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as line:
            head = f"Host: {host}:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
            line.sendall(b"POST /v1/score?class_name=wood HTTP/1.1\r\n" + head.encode())
            sent, chunk = 0, b"4000\r\n" + bytes(0x4000) + b"\r\n"
            line.settimeout(0.05)
            answer = b""
            while not answer and sent < 2**30:  # without end, until the server has had enough
                try:
                    sent += line.send(chunk)
                    answer = line.recv(65536)
                except TimeoutError:
                    pass
                except (BrokenPipeError, ConnectionResetError):
                    break
            assert sent < 2**24
            assert answer.startswith(b"HTTP/1.1 413") or not answer
        assert web.post("/v1/score", params=WOOD, content=encoded(picture(1, (8, 8)))).status_code == 200


def test_a_token_is_asked_for(live: Live) -> None:
    with serving(live, token=TOKEN) as server, client(server) as web:
        for path in ("/healthz", "/readyz", "/", "/page.js", "/page.css"):
            assert web.get(path).status_code == 200
        wrong = ("Bearer wrong", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}")
        for headers in ({}, *({"Authorization": one} for one in wrong)):
            for path in ("/v1/model", "/metrics", "/v1/nothing"):
                answer = web.get(path, headers=headers)
                assert error_of(answer) == (401, "no_token")
                assert answer.headers["www-authenticate"].startswith("Bearer")
            assert error_of(web.post("/v1/score", content=b"x", headers=headers)) == (401, "no_token")
        web.headers["Authorization"] = f"Bearer {TOKEN}"
        assert web.post("/v1/score", params=WOOD, content=encoded(picture(1))).status_code == 200


def test_foreign_names_and_pages_are_refused(live: Live) -> None:
    with serving(live, names=["line"], origins=["https://panel.example"]) as server, client(server) as web:
        port = server.address.rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.7", "[::2]", "", "a]b"):
            assert error_of(web.get("/", headers={"Host": host})) == (400, "foreign_host")
        for host in (f"localhost:{port}", "LOCALHOST", "[::1]", "line:80"):
            assert web.get("/", headers={"Host": host}).status_code == 200
        for origin in ("http://evil.example", "null", f"http://localhost:{port}"):
            answer = web.post("/v1/score", params=WOOD, content=b"x", headers={"Origin": origin})
            assert error_of(answer) == (403, "foreign_origin")
            assert "access-control-allow-origin" not in answer.headers
        data = encoded(picture(1))
        assert web.post("/v1/score", params=WOOD, content=data, headers={"Origin": server.address}).status_code == 200
        answer = web.post("/v1/score", params=WOOD, content=data, headers={"Origin": "https://panel.example"})
        assert answer.headers["access-control-allow-origin"] == "https://panel.example"


def test_an_address_that_others_reach_needs_a_token() -> None:
    with pytest.raises(ValueError, match=r"host=0\.0\.0\.0 can be reached by others, so a token is needed"):
        Options(host="0.0.0.0")
    with pytest.raises(ValueError, match="at least 16 printable"):
        Options(host="0.0.0.0", token="short")
    assert Options(host="0.0.0.0", token=TOKEN).doors([]).addresses


def test_what_every_answer_carries(web: httpx.Client) -> None:
    seen = set()
    for answer in (web.get("/"), web.get("/nothing"), web.get("/v1/model")):
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
        seen.add(answer.headers["x-request-id"])
    assert len(seen) == 3


class Held(Live):
    """The model, held back while a test looks at the queue."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor, ["wood"])
        self.go, self.seen = threading.Event(), 0

        def outcomes(batch: Sequence[Opened]) -> list[Outcome]:
            assert self.go.wait(60)
            self.seen += len(batch)
            return predictor.outcomes(batch)

        self.outcomes = outcomes


@pytest.fixture
def held(predictor: Predictor) -> Held:
    model = Held(predictor)
    model.go.set()
    return model


def test_a_full_queue_says_when_to_come_back(held: Held) -> None:
    data = encoded(picture(1))
    with serving(held, queue=4, batch_size=2) as server, ThreadPoolExecutor(4) as pool, client(server) as web:
        held.go.clear()
        waiting = [pool.submit(web.post, "/v1/score", content=data) for _ in range(4)]
        wait_for(lambda: server.service.active == 4)
        answer = web.post("/v1/score", content=data)
        assert error_of(answer) == (503, "full")
        assert int(answer.headers["retry-after"]) >= 1
        assert web.get("/healthz").status_code == 200  # others are served meanwhile
        held.go.set()
        assert [one.result().status_code for one in waiting] == [200] * 4
        assert web.post("/v1/score", content=data).status_code == 200


def test_who_leaves_is_not_worked_for(held: Held) -> None:
    data = encoded(picture(1))
    with serving(held, batch_size=1) as server, client(server) as web:
        before = held.seen
        held.go.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(web.post, "/v1/score", content=data)  # the model is at it
            wait_for(lambda: server.service.active == 1 and len(server.service.engine._batcher) == 0)
            for _ in range(3):
                with client(server) as other, pytest.raises(httpx.ReadTimeout):
                    other.post("/v1/score", content=data, timeout=0.3)
            wait_for(lambda: server.service.active == 1)
            held.go.set()
            assert first.result().status_code == 200
        assert held.seen == before + 1
        assert 'code="499"} 3' in web.get("/metrics").text


def test_a_request_has_so_many_seconds(held: Held) -> None:
    with serving(held, timeout=0.3) as server, client(server) as web:
        held.go.clear()
        assert error_of(web.post("/v1/score", content=encoded(picture(1)))) == (504, "timeout")
        rows = web.post("/v1/score-many", files=[("image", ("a.png", encoded(picture(1))))]).text
        assert "took more than 0.3 s" in json.loads(rows)["error"]
        held.go.set()
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as line:  # a body that never comes
            line.sendall(f"POST /v1/score HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 9\r\n\r\nabc".encode())
            assert line.recv(65536).startswith(b"HTTP/1.1 408")
        wait_for(lambda: server.service.active == 0)


def test_a_failure_of_ours_shows_no_trace(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    with serving(held) as server, client(server) as web:

        def broken(*_: Any) -> Any:
            raise RuntimeError("secret /home/somebody/model.onnx")

        held.outcomes = broken  # type: ignore[assignment]
        answer = web.post("/v1/score", content=encoded(picture(1)))
        assert error_of(answer) == (500, "internal")
        assert "secret" not in answer.text
        assert answer.headers["x-request-id"] in caplog.text
        assert "secret /home" in caplog.text
