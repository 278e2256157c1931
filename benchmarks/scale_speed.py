"""Images per second of ``zsad score`` with and without Ray, its start-up, its memory, and what a kill costs.

``python benchmarks/scale_speed.py --images 300 3000 --engine local ray`` times whole commands on small pictures, named
by a Parquet list, with zsad-mini; ``--kill 10`` kills the driver after so many seconds of rows and starts it again.
Every line tells the greatest resident size of the driver and of a process of Ray, as the kernel saw them (Linux);
``--bounded`` ends with status 1 if the last number of images took more than 1.2 times what the first one did.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
from PIL import Image
from pyarrow import parquet
from rich.console import Console

from zsad.synthetic import generate

_DIFFERENT = 200
_BOUND = 1.2


def fill(folder: Path, images: int) -> Path:
    """Write 200 small pictures under as many names as there are images, and a list of them."""
    for number in range(images):
        path = folder / f"{number:06d}.png"
        if number < _DIFFERENT:
            Image.fromarray(generate("coin", "hole" if number % 3 == 0 else "", seed=number).image).save(path)
        else:
            os.link(folder / f"{number % _DIFFERENT:06d}.png", path)
    listed = folder / "list.parquet"
    parquet.write_table(pyarrow.table({"path": [f"{number:06d}.png" for number in range(images)]}), listed)
    return listed


def command(listed: Path, out: Path, engine: str, workers: int, block: int) -> list[str]:
    """Return the command; heat maps are left out, so that the engines are compared."""
    given = [
        *("--out", str(out), "--method=clip", "--backbone=zsad-mini", "--class-name=coin", "--device=cpu"),
        *("--no-overlays", "--no-page"),
    ]
    cluster = [f"--engine={engine}", f"--workers={workers}", f"--block={block}"] if engine == "ray" else []
    return [sys.executable, "-m", "zsad", "score", str(listed), *given, *cluster]


def durable(out: Path) -> int:
    """Return the rows that a job has marked as done."""
    marks = [path for path in (out / "checkpoint").glob("*.parquet") if "pending" not in path.name]
    return sum(parquet.read_metadata(path).num_rows for path in marks)


def sizes(driver: int) -> dict[str, float]:
    """Return the greatest resident size so far, in 10^6 bytes, of a driver and of a process that works for it."""
    parents: dict[int, int] = {}
    peaks: dict[int, float] = {}
    titles: dict[int, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:  # has just ended
            continue
        parents[int(folder.name)] = int(status["PPid"])
        peaks[int(folder.name)] = int(status.get("VmHWM", "0").split()[0]) * 1024 / 1e6
    mine = {driver}
    while more := {process for process, parent in parents.items() if parent in mine} - mine:
        mine |= more
    workers = [peaks[process] for process in mine if titles.get(process, b"").startswith(b"ray::")]
    return {"driver_megabytes": peaks.get(driver, 0.0), "worker_megabytes": max(workers, default=0.0)}


def timed(given: list[str], out: Path) -> dict[str, float]:
    """Return the seconds of a command, those until its first rows were there, and its greatest sizes."""
    started, first, turn = time.monotonic(), None, 0
    peaks: dict[str, float] = {}
    process = subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        rows = out / "scores.jsonl"
        if first is None and (durable(out) or (rows.exists() and rows.stat().st_size)):
            first = time.monotonic() - started
        if (turn := turn + 1) % 10 == 0:
            peaks = {name: max(size, peaks.get(name, 0.0)) for name, size in sizes(process.pid).items()}
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{given} ended with {process.returncode}.")
    took = {"seconds": time.monotonic() - started, "first_rows": first or 0.0, **peaks}
    return {name: round(value, 2) for name, value in took.items()}


def killed(given: list[str], out: Path, after: float) -> dict[str, Any]:
    """Kill a job some seconds after its first rows, start it again, and return what was kept and how long both took."""
    process = subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not durable(out) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = durable(out)
    again = timed(given, out)
    return {"durable_when_killed": kept, "rows_at_the_end": durable(out), "again": again["seconds"]}


def main() -> None:
    """Measure and print a line of JSON for each measurement, as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 3000])
    parser.add_argument("--engine", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--block", type=int, default=1000)
    parser.add_argument("--bounded", action="store_true", help="compare the sizes of the first and last --images")
    parser.add_argument("--kill", type=float, metavar="SECONDS", help="kill the driver so long after the first rows")
    args = parser.parse_args()
    if args.bounded and args.kill is not None:
        parser.error("--bounded compares whole runs: leave out --kill.")
    peaks: dict[str, list[dict[str, float]]] = {engine: [] for engine in args.engine}
    console = Console(soft_wrap=True)
    for images in args.images:
        with TemporaryDirectory() as name:
            folder = Path(name)
            listed = fill(folder, images)
            for engine in args.engine:
                given = command(listed, folder / engine, engine, args.workers, args.block)
                if args.kill is not None:
                    lost = killed(given, folder / engine, args.kill)
                    console.print_json(json.dumps({"images": images, **lost}), indent=None)
                    continue
                took = timed(given, folder / engine)
                peaks[engine].append(took)
                speed = round(images / took["seconds"], 1)
                said = {"images": images, "engine": engine, **took, "images_per_second": speed}
                console.print_json(json.dumps(said), indent=None)
    if args.bounded:
        times = {
            f"{engine} {name}": round(took[-1][name] / took[0][name], 3)
            for engine, took in peaks.items()
            for name in ("driver_megabytes", "worker_megabytes")
            if took[0][name]
        }
        console.print_json(json.dumps({"times": times, "at_most": _BOUND}), indent=None)
        sys.exit(max(times.values()) > _BOUND)


if __name__ == "__main__":
    main()
