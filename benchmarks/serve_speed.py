"""Throughput of the server with 1 and 8 clients, and its memory under a body without end.

    python benchmarks/serve_speed.py EXPORT [--seconds 10]

Starts ``run.py serve`` of an exported folder as a process and asks it from threads of this one. Rounds of 1 and of 8
clients alternate; the best of each is told, since neighbours on the machine only ever take time.
"""

import argparse
import http.client
import io
import json
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROUNDS = 3


def main() -> None:
    """Print one JSON object."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("export", type=Path)
    made.add_argument("--seconds", type=float, default=10.0, help="of a round (default: %(default)g)")
    args = made.parse_args()
    classes = json.loads((args.export / "meta.json").read_text())["classes"]
    path = f"/v1/score?class_name={classes[0].replace(' ', '%20')}"
    command = [sys.executable, str(args.export / "run.py"), "serve", "--port", "0"]
    begun = time.monotonic()
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        line = next(one for one in server.stderr if "listening" in one)
        threading.Thread(target=server.stderr.read, daemon=True).start()  # else the log would fill the pipe
        host, port = re.search(r"http://(\S+):(\d+)", line).groups()  # type: ignore[union-attr]
        up = time.monotonic() - begun
        place = (host, int(port), path, picture())
        best = {number: (0.0, 0.0) for number in (1, 8)}
        clients(1, 1.0, place)  # warm
        for _ in range(ROUNDS):
            for number, known in best.items():
                best[number] = max(known, clients(number, args.seconds, place))
        before = memory(server.pid)
        sent = endless(host, int(port), path)
        found = {
            "up_s": round(up, 2),
            "clients": {n: {"per_s": round(rate, 1), "median_ms": round(ms, 1)} for n, (rate, ms) in best.items()},
            "memory_mb": round(before, 1),
            "endless_body": {"sent_mb": round(sent / 1e6, 1), "memory_mb": round(memory(server.pid), 1)},
            "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()},
        }
        print(json.dumps(found, indent=1))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def picture() -> bytes:
    """Return a PNG file of 600 x 420 pixels that does not compress to nothing."""
    small = np.random.default_rng(0).integers(0, 256, (14, 20, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((600, 420), Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def clients(number: int, seconds: float, place: tuple[str, int, str, bytes]) -> tuple[float, float]:
    """Return answers per second of so many clients, and the median milliseconds of one."""
    host, port, path, data = place
    times: list[float] = []

    def ask(end: float) -> None:
        line = http.client.HTTPConnection(host, port)
        while time.monotonic() < end:
            begun = time.monotonic()
            line.request("POST", path, data)
            answer = line.getresponse()
            answer.read()
            if answer.status == 200:
                times.append(time.monotonic() - begun)

    end = time.monotonic() + seconds
    threads = [threading.Thread(target=ask, args=(end,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times) / seconds, 1000 * statistics.median(times)


def endless(host: str, port: int, path: str) -> int:
    """Send a body without end, until the server has had enough; return how many bytes that took."""
    sent, chunk = 0, b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with socket.create_connection((host, port), timeout=10) as line:
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            while sent < 2**31:
                line.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
    return sent


def memory(process: int) -> float:
    """Return the greatest resident memory of a process so far, in MB (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


if __name__ == "__main__":
    main()
