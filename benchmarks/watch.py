"""How long after a file was closed its row is on the disk, with ``zsad score --watch``: median and 99th percentile.

    python benchmarks/watch.py --images 200 --pause 0.1

Writes pictures into a folder that is being watched, waits for their rows and prints a JSON object. The settling time is
part of the reaction; what is beyond it is what zsad takes.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image


def rows(file: Path, patience: float) -> Iterator[tuple[str, float]]:
    """Yield the name of each row's picture with the time at which the row was seen, to two milliseconds."""
    deadline, rest, place = time.monotonic() + patience, b"", 0
    while time.monotonic() < deadline:
        if file.exists() and file.stat().st_size > place:
            seen = time.monotonic()
            with file.open("rb") as stream:
                stream.seek(place)
                new = stream.read()
            place += len(new)
            *lines, rest = (rest + new).split(b"\n")
            for line in lines:
                yield Path(json.loads(line)["path"]).name, seen
        time.sleep(0.002)


def main() -> int:
    """Run the benchmark; return 1 if a row is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, metavar="N")
    parser.add_argument("--pause", type=float, default=0.1, metavar="S", help="between two files")
    parser.add_argument("--settle", type=float, default=0.2, metavar="S")
    parser.add_argument("--side", type=int, default=512, metavar="PIXELS")
    parser.add_argument("--polling", action="store_true")
    parser.add_argument("--patience", type=float, default=120.0, metavar="S", help="end then, whatever is missing")
    args = parser.parse_args()
    closed: dict[str, float] = {}
    reaction: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place, "in"), Path(place, "out")
        folder.mkdir()
        rng = np.random.default_rng(0)
        first = folder / "first.png"
        Image.fromarray(rng.integers(0, 256, (args.side, args.side, 3), np.uint8)).save(first)
        command = ["score", str(folder), "--out", str(out), "--watch", "--settle", str(args.settle), "--no-overlays"]
        model = ["--method", "clip", "--backbone", "zsad-mini"] + ["--polling"] * args.polling
        run = subprocess.Popen(
            [sys.executable, "-m", "zsad", *command, *model], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            seen = rows(out / "scores.jsonl", args.patience)
            next(seen)  # the model is there
            content = first.read_bytes()

            def write() -> None:
                for number in range(args.images):
                    name = f"{number:05}.png"
                    (folder / name).write_bytes(content)
                    closed[name] = time.monotonic()
                    time.sleep(args.pause)

            writer = threading.Thread(target=write)
            writer.start()
            reaction = [moment - closed[name] for name, moment in itertools.islice(seen, args.images)]
            writer.join()
        finally:
            run.terminate()
            run.wait()
    ordered = sorted(reaction)
    result = {
        "images": len(ordered),
        "missing": args.images - len(ordered),
        "settle_s": args.settle,
        "pause_s": args.pause,
        "median_s": round(statistics.median(ordered), 3) if ordered else None,
        "p99_s": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3) if ordered else None,
        "images_per_s": round(len(ordered) / (max(closed.values()) - min(closed.values()) + 1e-9), 1)
        if closed
        else None,
    }
    print(json.dumps(result))
    return int(result["missing"] > 0)


if __name__ == "__main__":
    sys.exit(main())
