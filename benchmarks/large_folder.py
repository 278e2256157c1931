"""Start-up time and memory of a folder with very many images.

Run ``python benchmarks/large_folder.py --images 100000``; it writes tiny files to a temporary folder.
"""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from zsad.datamodules import Folder
from zsad.datamodules.base import batches
from zsad.types import ImageProtocol


def fill(folder: Path, images: int, per_folder: int = 10_000) -> None:
    """Write copies of one tiny picture, in subfolders."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    for index in range(images):
        below = folder / f"part{index // per_folder:03d}"
        if index % per_folder == 0:
            below.mkdir()
        (below / f"{index:07d}.png").write_bytes(buffer.getvalue())


def memory() -> float:
    """Return the resident memory of this process, in 10^6 bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--read", type=int, default=20_000, help="images to load while watching the memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name), arguments.images)
        before, wall, cpu = memory(), time.perf_counter(), time.process_time()
        data = Folder(name, protocol=ImageProtocol(size=8), batch_size=100)
        data.setup("predict")
        result: dict[str, Any] = {
            "images": len(data.dataset()),
            "startup_s": time.perf_counter() - wall,
            "startup_cpu_s": time.process_time() - cpu,
            "startup_mb": memory() - before,
            "load": os.getloadavg()[0],
        }
        marks = []
        for number, _ in enumerate(batches(data)):
            if number % (arguments.read // 1000) == 0:
                marks.append(memory())
            if number * 100 >= arguments.read:
                break
        result["mb_over_first_batch"] = [round(mark - marks[0], 1) for mark in marks]
    Console().print_json(data=result)


if __name__ == "__main__":
    main()
