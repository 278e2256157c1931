"""How much of the machine ``zsad score`` leaves to decoding and to the model, on photos of 12 megapixels.

    taskset -c 0 python benchmarks/score_pipeline.py --photos 500 --num-workers 1
    python benchmarks/score_pipeline.py --photos 500 --num-workers 2 --rounds 3

A bare loop (read, resize, normalise, nothing else) against the whole command with a model that costs nothing: rows
only, with heat maps, and with ``--fast-decode``. Rounds are interleaved and minima count. On one core CPU seconds count
as well, which a busy machine disturbs less.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import zsad.cli.score as command
from zsad.images import load_rgb, to_tensor
from zsad.inference import load_model
from zsad.types import Prediction


def photos(folder: Path, number: int, kinds: int = 8) -> list[Path]:
    """Write JPEG photos of 4000 x 3000 pixels, about 4.7 MB each; ``kinds`` of them differ."""
    random = np.random.default_rng(0)
    contents = []
    for _ in range(min(kinds, number)):
        coarse = Image.fromarray(random.integers(0, 255, (375, 500, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels += random.integers(-6, 7, (3000, 4000, 1), dtype=np.int16)
        path = folder / "kind.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        contents.append(path.read_bytes())
        path.unlink()
    paths = [folder / f"{index:04d}.jpg" for index in range(number)]
    for index, path in enumerate(paths):
        path.write_bytes(contents[index % len(contents)])
    return paths


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(arguments: list[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=240)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model("clip", "zsad-mini", device="cpu", image_size=options.image_size)

    def nothing(image: torch.Tensor, names: Any, paths: Any = None) -> Prediction:
        return Prediction(torch.zeros(len(image), *image.shape[-2:]), torch.zeros(len(image)))

    model.method.forward = nothing  # type: ignore[method-assign, assignment]
    fast = load_model("clip", "zsad-mini", device="cpu", image_size=options.image_size, fast_decode=True)
    fast.method.forward = nothing  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        paths = photos(folder / "in", options.photos)

        def bare() -> None:
            with ThreadPoolExecutor(options.num_workers) as pool:
                for _ in pool.map(lambda path: to_tensor(load_rgb(path), model.method.protocol), paths):
                    pass

        def score(*more: str) -> None:
            fixed = ["--method=clip", "--backbone=zsad-mini", f"--num-workers={options.num_workers}", "--fresh"]
            command.main([str(folder / "in"), "--out", str(folder / "out"), *fixed, *more])

        setattr(command, "load_model", lambda **given: fast if given["fast_decode"] else model)  # noqa: B010  # costs nothing
        runs: dict[str, Callable[[], None]] = {
            "bare loop": bare,
            "rows": lambda: score("--no-overlays"),
            "rows and heat maps": lambda: score("--scale", "fixed"),
            "rows, fast decode": lambda: score("--no-overlays", "--fast-decode"),
        }
        found: dict[str, list[tuple[float, float]]] = {what: [] for what in runs}
        for _ in range(options.rounds):
            for what, run in runs.items():
                found[what].append(seconds(run))
        best = {what: [min(column) for column in zip(*times, strict=True)] for what, times in found.items()}
        wall, cpu = best["bare loop"]
        share = {what: {"wall": wall / one[0], "cpu": cpu / one[1]} for what, one in best.items()}
        print(json.dumps({"options": vars(options), "best": best, "share_of_bare_loop": share}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
