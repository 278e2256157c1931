"""How fast images are loaded: our dataset against bare Pillow in the same run, and data loaders with more workers.

Run ``python benchmarks/loading.py``; it writes its own 1024-pixel PNG and JPEG files to a temporary folder. Wall time
means little on a busy machine: compare the CPU times, which are measured in turns.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from zsad.datamodules.dataset import AnomalyDataset, BatchLoader, collate
from zsad.types import ImageProtocol, Record

SIZE = 518


def write(folder: Path, number: int, side: int, extension: str) -> list[Path]:
    """Write pictures with structure at all scales, as photographs have, and return their paths."""
    paths = []
    for index in range(number):
        rng = np.random.default_rng(index)
        picture = np.zeros((side, side, 3))
        for scale in (4, 16, 64, 256, side):
            noise = Image.fromarray(rng.integers(0, 256, (scale, scale, 3), dtype=np.uint8))
            picture += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), float) / scale**0.4
        levels = (255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)
        paths.append(folder / f"{index:03d}.{extension}")
        Image.fromarray(levels).save(paths[-1], quality=92)
    return paths


def bare(path: Path) -> Image.Image:
    """Decode and resize a picture with nothing but Pillow."""
    with Image.open(path) as image:
        return image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def touch(path: Path) -> tuple[int, int]:
    """Decode and resize, and send back next to nothing."""
    return bare(path).size


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return (wall seconds, CPU seconds of this process)."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def single(paths: Sequence[Path], dataset: AnomalyDataset, rounds: int) -> dict[str, float]:
    """Return images per second of CPU time and of wall time, in one process, ours and bare in turns."""
    times: dict[str, list[float]] = {"bare": [], "ours": [], "bare_wall": [], "ours_wall": []}
    for _ in range(rounds):
        for name, work in (
            ("bare", lambda: [bare(path) for path in paths]),
            ("ours", lambda: [dataset[index] for index in range(len(dataset))]),
        ):
            wall, cpu = timed(work)
            times[name].append(cpu)
            times[f"{name}_wall"].append(wall)
    rates = {name: len(paths) / median(values) for name, values in times.items()}
    return rates | {"ratio": median(b / o for b, o in zip(times["bare"], times["ours"], strict=True))}


def several(paths: Sequence[Path], dataset: AnomalyDataset, workers: int, rounds: int, repeat: int) -> dict[str, float]:
    """Return images per second with worker processes, of their CPU time and of wall time, ours and bare in turns."""
    many = list(paths) * repeat
    repeated = AnomalyDataset([dataset.records[index % len(paths)] for index in range(len(many))], dataset.protocol)
    context = multiprocessing.get_context("fork")

    def plain() -> None:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            list(pool.map(touch, many, chunksize=8))

    def loader() -> None:
        batches = BatchLoader(
            repeated,
            batch_size=8,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=repeated.start_worker,
            multiprocessing_context=context,
        )
        assert sum(len(batch["image"]) for batch in batches) == len(many)

    times: dict[str, list[float]] = {"bare": [], "ours": [], "bare_wall": [], "ours_wall": []}
    for _ in range(rounds):
        for name, work in (("bare", plain), ("ours", loader)):
            before = children()
            wall, _ = timed(work)
            times[name].append(children() - before)
            times[f"{name}_wall"].append(wall)
    rates = {name: len(many) / median(values) for name, values in times.items()}
    return rates | {"ratio": median(b / o for b, o in zip(times["bare"], times["ours"], strict=True))}


def children() -> float:
    """Return the CPU seconds of all processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print a table, or JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=2, help="times the images are read with worker processes")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a loader's workers have one thread each
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for extension in ("png", "jpg"):
            paths = write(Path(folder), arguments.images, arguments.side, extension)
            dataset = AnomalyDataset([Record(path, "object") for path in paths], ImageProtocol(size=SIZE))
            results[f"{extension}, one process"] = single(paths, dataset, arguments.rounds)
            for workers in arguments.workers:
                results[f"{extension}, {workers} worker(s)"] = several(
                    paths, dataset, workers, arguments.rounds, arguments.repeat
                )
    if arguments.json:
        load = os.getloadavg()[0]
        Console().print_json(data={"images_per_second": results, "cpus": os.cpu_count(), "load": load})
        return
    heading = f"images/s, {arguments.side} to {SIZE} px, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    table = Table("files", "bare, CPU", "ours, CPU", "bare, wall", "ours, wall", "ours / bare, CPU", title=heading)
    for name, rates in results.items():
        columns = ("bare", "ours", "bare_wall", "ours_wall")
        cells = [f"{rates[column]:.1f}" if column in rates else "" for column in columns]
        table.add_row(name, *cells, f"{rates['ratio']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
