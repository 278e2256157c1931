"""The server as one starts it: from an exported folder, in a process without torch, ended by a signal under load."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx

from tests.deploy.exporting import ALONE
from tests.deploy.serving import encoded, picture, wait_for
from zsad import Predictor

WITHOUT_TORCH = ALONE.replace('"typing_extensions",', "")  # Starlette needs it and brings it


class Process:
    """``python run.py serve`` where torch and its like cannot be imported."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [
            sys.executable,
            "-I",
            "-c",
            WITHOUT_TORCH,
            str(folder / "run.py"),
            "serve",
            "--port",
            "0",
            *arguments,
        ]
        self.running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder.parent)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        wait_for(lambda: any("listening on" in line for line in self.lines) or self.running.poll() is not None)
        assert self.running.poll() is None, self.lines
        self.address = next(line for line in self.lines if "listening on" in line).split()[-1]
        wait_for(lambda: httpx.get(f"{self.address}/readyz", trust_env=False).status_code == 200)

    def _read(self) -> None:
        assert self.running.stderr is not None
        self.lines.extend(iter(self.running.stderr.readline, ""))

    def end(self) -> int:
        self.running.send_signal(signal.SIGTERM)
        status = self.running.wait(60)
        self._reader.join()
        assert self.running.stderr is not None
        self.running.stderr.close()
        return status


def test_a_signal_under_load_loses_no_accepted_request(exported: Path, predictor_of_export: Predictor) -> None:
    server = Process(exported, "--batch-size", "4")
    images = [encoded(picture(seed)) for seed in range(5)]
    expected = [predictor_of_export.predict(data, "wood").pred_score for data in images]
    answers: Counter[int] = Counter()
    wrong: list[float] = []
    lock = threading.Lock()

    def client(number: int) -> None:
        place = number % len(images)
        with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as web:
            while True:
                try:
                    answer = web.post("/v1/score", params={"class_name": "wood"}, content=images[place])
                except httpx.TransportError:
                    return  # it was never accepted: the last line of the log has to agree
                with lock:
                    answers[answer.status_code] += 1
                    if answer.status_code == 200:
                        wrong.append(abs(answer.json()["score"] - expected[place]))
                if answer.status_code != 200:
                    return

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for one in clients:
        one.start()
    wait_for(lambda: answers[200] >= 40)
    status = server.end()
    for one in clients:
        one.join()
    assert status == 0
    assert max(wrong) < 1e-6
    assert set(answers) <= {200, 503}
    accepted = int(server.lines[-1].split("ended: ")[1].split()[0])
    assert server.lines[-1].rstrip().endswith(f"ended: {accepted} accepted, 0 unanswered")
    assert answers[200] == accepted
    assert not any("image" in line or "wood" in line for line in server.lines)  # no names and no queries in the log


def test_the_page_and_the_token_of_an_exported_folder(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-the-line-42\n")
    server = Process(exported, "--token-file", str(tmp_path / "token"))
    try:
        assert "<title>" in httpx.get(f"{server.address}/", trust_env=False).text
        url = f"{server.address}/v1/model"
        assert httpx.get(url, trust_env=False).status_code == 401
        told = httpx.get(url, trust_env=False, headers={"Authorization": "Bearer a-token-of-the-line-42"}).json()
        assert told["classes"] == ["wood", "coin"]
        assert str(exported.parent) not in str(told)
    finally:
        assert server.end() == 0
