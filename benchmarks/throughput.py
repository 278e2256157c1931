"""Images per second of every method against the bare image tower of the same model, in the same run.

    python benchmarks/throughput.py --backbone ViT-L-14-336/random --image-size 518 --methods anomalyclip clip
    python benchmarks/throughput.py --batch-size 8 --methods anovl:views=none anovl:views=none,adapter=text

Text vectors are computed beforehand, as they are kept in use. The rounds are interleaved, so that a machine that slows
down slows all of them; the median counts. On the CPU the clock shows CPU seconds of all threads divided by their
number, since the wall clock of a shared machine shows mostly its load (set OMP_NUM_THREADS=1 there: waiting threads
spin); wall seconds are in the JSON file. The bare tower is open_clip's own forward pass at the same image size.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from zsad.benchmark.grid import MethodSpec
from zsad.clip import Clip, load_clip
from zsad.methods import METHODS

BARE = "open_clip's image tower"
Run = Callable[[], Any]


def bare_tower(clip: Clip, image: Tensor) -> Run:
    """open_clip's own forward pass, with a position table that fits the image."""
    table = {"positional_embedding": clip.position_table(clip.grid(image))}
    return lambda: torch.func.functional_call(clip.model.visual, table, (image,))


def method_run(name: str, clip: Clip, image: Tensor) -> Run:
    """A method's whole prediction, smoothing included."""
    spec = MethodSpec.parse(name)
    kind: Any = spec.kind
    model = kind(clip, image_size=image.shape[-1], **spec.options).to(image.device).eval()
    names, paths = ["bottle"] * len(image), [f"{index}.png" for index in range(len(image))]
    model(image, names, paths)  # fills the text cache
    return lambda: model(image, names, paths)


def seconds(run: Run, device: torch.device) -> tuple[float, float]:
    """What counts and wall seconds of one call: on the CPU, CPU seconds per thread; else both are wall seconds."""
    start, start_cpu = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall = time.perf_counter() - start
    return (time.process_time() - start_cpu) / torch.get_num_threads() if device.type == "cpu" else wall, wall


def peak_megabytes(run: Run, device: torch.device) -> float | None:
    """Greatest memory during one call: of the accelerator, else of the whole process; None where nobody counts."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the process's peak
    except OSError:
        return None
    run()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1e3


def common_options(description: str | None) -> argparse.ArgumentParser:
    """The options of the programs that time all methods on one backbone."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="zsad-mini")
    parser.add_argument("--image-size", type=int, help="pixels; by default the backbone's own")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="names, or name:option=value,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table and write JSON if asked."""
    parser = common_options(__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")  # trained methods say that they are not
    device = torch.device(options.device)
    clip = load_clip(options.backbone, "bilinear").to(device)
    side = options.image_size or clip.image_size
    random = torch.Generator().manual_seed(0)
    image = torch.randn(options.batch_size, 3, side, side, generator=random).to(device)

    runs: dict[str, Run] = {BARE: bare_tower(clip, image)}
    problems: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for name in options.methods:
            try:
                runs[name] = method_run(name, clip, image)
            except Exception as error:  # a method that cannot run here is a line of the table, not its end
                problems[name] = str(error).splitlines()[0]
        peaks = {name: peak_megabytes(run, device) for name, run in runs.items()}  # warms up, too
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                times[name].append(seconds(run, device))
    bare = statistics.median(counted for counted, _ in times[BARE])
    for name, found in times.items():
        median = statistics.median(counted for counted, _ in found)
        rows.append(
            {
                "name": name,
                "images_per_second": options.batch_size / median,
                "seconds": [counted for counted, _ in found],
                "wall_seconds": [wall for _, wall in found],
                "times_the_bare_tower": median / bare,
                "peak_megabytes": peaks[name],
            }
        )
    rows += [{"name": name, "problem": problem} for name, problem in problems.items()]

    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    title = f"{clip.name}, {side} px, batches of {options.batch_size}, float32, {where}"
    table = Table("", "images/s", "x tower", "peak MB", title=title)
    for row in rows:
        if "problem" in row:
            table.add_row(row["name"], "-", "-", row["problem"])
            continue
        peak = "-" if row["peak_megabytes"] is None else f"{row['peak_megabytes']:.0f}"
        table.add_row(row["name"], f"{row['images_per_second']:.3g}", f"{row['times_the_bare_tower']:.2f}", peak)
    Console().print(table)
    if options.json:
        made = {
            "backbone": clip.name,
            "image_size": side,
            "batch_size": options.batch_size,
            "device": where,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "rows": rows,
        }
        options.json.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
