"""Learned parameters as a folder and in a repository of the Hub, whose interface a server on loopback stands in for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

from tests.served import Published, prompts_file
from zsad import load_model
from zsad.methods import AnomalyCLIP, CheckpointError
from zsad.weights import DownloadError, MismatchError, NotHereError
from zsad.weights.card import read_results
from zsad.weights.expected import Expected
from zsad.weights.hub import fetch_from_hub
from zsad.weights.registry import SourceFile

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
HUB = "https://huggingface.co"


class Hub(ThreadingHTTPServer):
    """What the Hub's client asks for when it fetches and writes single files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}  # repository -> path -> content
        self.asked: list[str] = []
        self.private: dict[str, bool] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._file(False)

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            files = self.server.files.get("/".join(self.path.split("/")[3:5]), {})
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            self._json(200, entries)
        elif self.path.startswith("/api/models/"):
            repository = "/".join(self.path.split("/")[3:5])
            names = [{"rfilename": name} for name in self.server.files.get(repository, {})]
            self._json(
                200 if repository in self.server.files else 404, {"id": repository, "sha": COMMIT, "siblings": names}
            )
        else:
            self._file(True)

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.files.setdefault(name, {})
            self.server.private[name] = asked.get("private", asked.get("visibility") == "private")
            self._json(200, {"url": f"{self.server.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            wanted = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            self._json(200, {"files": [{**one, "shouldIgnore": False} for one in wanted]})
        elif "/commit/" in self.path:
            repository = "/".join(self.path.split("/")[3:5])
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    self.server.files[repository][one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            # the Hub's own address: older clients read no other
            self._json(200, {"commitUrl": f"{HUB}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._json(404, {"error": self.path})

    def _file(self, with_body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        found = re.fullmatch(r"/(?:spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        content = self.server.files.get(found[1], {}).get(found[3]) if found else None
        if found is None or content is None:
            self.send_response(404)
            self.send_header(
                "X-Error-Code", "EntryNotFound" if found and found[1] in self.server.files else "RepoNotFound"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _json(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model() -> AnomalyCLIP:
    made = AnomalyCLIP("zsad-mini", n_ctx=3, depth=2, seed=9, cache_dir="/home/me/cache")
    made.trained_on = [{"name": "mvtec_ad", "root": "/home/me/data", "classes": None, "images": 12, "epochs": 2}]
    return made


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Cells as ``zsad benchmark`` writes them, one of them on the training set."""
    for data, values in (("visa", (0.8, 0.9)), ("mvtec_ad", (0.99, 0.99))):
        for number, value in enumerate(values):
            cell = {
                "method": {"name": "anomalyclip", "label": "anomalyclip", "options": {}},
                "data": {"label": data, "name": data},
                "class": f"class{number}",
                "seed": 0,
                "metrics": {"image_auroc": value, "pixel_auroc": None},
                "intervals": {"image_auroc": [value - 0.1, value + 0.05]},
                "protocol": {"size": 96},
            }
            path = tmp_path / "results" / "cells" / "anomalyclip" / data / f"class{number}-s0.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(cell), encoding="utf-8")
    return tmp_path / "results"


def test_folder_there_and_back(model: AnomalyCLIP, results: Path, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "out", licence="cc-by-4.0", results=results, command="zsad fit --seed 9")
    assert {path.name for path in folder.iterdir()} == {
        "adapters.safetensors",
        "config.json",
        "calibration",
        "README.md",
    }
    back = AnomalyCLIP.from_pretrained(folder)
    assert back.hparams["n_ctx"] == 3
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)
    assert back.trained_on == [{"name": "mvtec_ad", "classes": None, "images": 12, "epochs": 2}]
    assert torch.equal(
        load_model("anomalyclip", "zsad-mini", folder).method.prompts.ctx_normal,  # type: ignore[union-attr,arg-type]
        model.prompts.ctx_normal,
    )
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"/home/me" not in path.read_bytes()
    assert model.trained_on[0]["root"] == "/home/me/data"
    assert model.hparams["cache_dir"] == "/home/me/cache"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["method"], config["backbone"]["name"], config["protocol"]["size"]) == (
        "AnomalyCLIP",
        "zsad-mini",
        96,
    )
    assert re.fullmatch(r"[0-9a-f]{64}", config["backbone"]["tower_key"])
    with safe_open(folder / "adapters.safetensors", framework="pt") as file:
        assert "root" not in json.loads(file.metadata()["zsad"])["trained_on"][0]


def test_the_card(model: AnomalyCLIP, results: Path, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "out", licence="cc-by-4.0", results=results, command="zsad fit --seed 9")
    page = (folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(page.split("---")[1])
    assert (front["license"], front["library_name"]) == ("cc-by-4.0", "zsad")
    assert front["tags"] == ["zsad", "anomaly-detection", "zero-shot", "anomalyclip"]
    assert front["datasets"] == ["mvtec_ad"]
    (entry,) = front["model-index"][0]["results"]
    assert entry["dataset"]["name"] == "visa"  # the training set's row is left out
    assert [one["value"] for one in entry["metrics"]] == [pytest.approx(0.85)]
    assert "verified" not in json.dumps(front)
    assert "| visa | 85.0 (75.0 to 90.0) | 2 classes, 1 seeds, 96 px |" in page
    assert "99.0" not in page
    assert "MVTec AD: 12 images, 2 epochs, seed 9. Licence of the data: CC BY-NC-SA 4.0. **These terms forbid" in page
    assert "None is universal" in page
    assert "zsad fit --seed 9" in page
    assert hashlib.sha256((folder / "adapters.safetensors").read_bytes()).hexdigest() in page
    headings = re.findall(r"^## (.*)$", page, re.M)
    assert headings == ["Trained on", "Results", "Threshold", "Backbone", "Files", "Again", "Limits"]
    with pytest.raises(FileNotFoundError, match=r"No results of 'coop' below .*zsad benchmark"):
        read_results(results, "coop")


def test_what_is_no_folder(tmp_path: Path, model: AnomalyCLIP) -> None:
    with pytest.raises(CheckpointError, match=r"holds no adapters\.safetensors"):
        AnomalyCLIP.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder, no file, no name"):
        AnomalyCLIP.from_pretrained("no such thing")
    model.save_pretrained(tmp_path / "out")
    from zsad.methods import CoOp

    with pytest.raises(CheckpointError, match=r"was written by .*AnomalyCLIP"):
        CoOp.from_pretrained(tmp_path / "out")


def test_published_names(published: Published, tmp_path: Path) -> None:
    published.publish("anomalyclip/visa", prompts_file(tmp_path / "x.pth"))
    assert AnomalyCLIP.from_pretrained("anomalyclip/visa").trained_on[0]["adapters"] == "anomalyclip/visa"


def test_push_and_fetch(hub: Hub, model: AnomalyCLIP, results: Path) -> None:
    with pytest.raises(ValueError, match="needs licence="):
        model.push_to_hub("me/adapters", token="x")
    with pytest.raises(ValueError, match=r"needs results=.*metrics=False"):
        model.push_to_hub("me/adapters", token="x", licence="cc-by-4.0")
    assert hub.asked == []
    where = model.push_to_hub("me/adapters", token="x", licence="cc-by-4.0", results=results)
    assert where == f"{HUB}/me/adapters/commit/{COMMIT}"
    assert hub.private == {"me/adapters": True}
    assert {"adapters.safetensors", "config.json", "README.md"} <= set(hub.files["me/adapters"])
    assert b'checkpoint="hub:me/adapters"' in hub.files["me/adapters"]["README.md"]
    back = AnomalyCLIP.from_pretrained("me/adapters", token="x")
    assert torch.equal(back.prompts.ctx_normal, model.prompts.ctx_normal)
    count = len(hub.asked)
    again = AnomalyCLIP.from_pretrained("hub:me/adapters", revision="main", local_files_only=True)
    assert torch.equal(again.prompts.ctx_normal, model.prompts.ctx_normal)
    assert len(hub.asked) == count
    by_commit = load_model("anomalyclip", "zsad-mini", f"hub:me/adapters@{COMMIT}").method
    assert torch.equal(by_commit.prompts.ctx_normal, model.prompts.ctx_normal)  # type: ignore[union-attr,arg-type]


def test_repositories_that_are_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch, model: AnomalyCLIP) -> None:
    with pytest.raises(DownloadError, match=r"Cannot fetch 'config\.json' of 'me/nothing' from 127\.0\.0\.1"):
        AnomalyCLIP.from_pretrained("me/nothing", token="x")
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    count = len(hub.asked)
    with pytest.raises(NotHereError, match=r"'me/other' is not in the Hub's cache and offline mode is on \(ZSAD"):
        AnomalyCLIP.from_pretrained("me/other")
    with pytest.raises(NotHereError, match="cannot be written: offline mode is on"):
        model.push_to_hub("me/x", licence="mit", metrics=False)
    assert len(hub.asked) == count


def test_published_files_on_the_hub_are_compared(hub: Hub, tmp_path: Path) -> None:
    content = b"weights" * 100
    hub.files["a/b"] = {"w.pth": content}
    right = Expected(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    source = SourceFile("hub", f"{hub.url}/a/b/resolve/main/w.pth", "a/b", None, "w.pth", right)
    assert fetch_from_hub(source).read_bytes() == content
    wrong = Expected(sha256="0" * 64)
    with pytest.raises(MismatchError, match=r"resolve/main/w\.pth' is not the file that is expected: sha256"):
        fetch_from_hub(SourceFile("hub", source.url, "a/b", None, "w.pth", wrong))
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.read_bytes() == content]
