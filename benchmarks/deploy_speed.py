"""Time and size of a model in torch and as an exported folder: ratios from rounds that alternate, and cold starts.

``python -m benchmarks.deploy_speed --methods anovl anomalyclip --backbone ViT-B-16-plus-240/random --rounds 5``

Other programs disturb all columns of a round alike; the ratio of minima is the one to quote. Results go to a JSON file
with the machine, and as a table to the terminal.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zsad import load_model
from zsad.deploy import Runtime, export
from zsad.deploy.verify import version
from zsad.images.tensors import normalise

Column = Callable[[], Any]


def picture(seed: int, side: int = 240) -> Image.Image:
    """Return a smooth random picture."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )


def columns(name: str, backbone: str, folder: Path, threads: int) -> tuple[dict[str, Column], dict[str, float]]:
    """Return what is timed by name, and the megabytes of each file.

    Args:
        name: Of the method.
        backbone: Of both.
        folder: For the exports.
        threads: Of each pass.
    """
    options: dict[str, Any] = {"checkpoint": "untrained", "device": "cpu", "backbone": backbone}
    options |= {"views": "none"} if name == "anovl" else {}
    model = load_model(name, **options)
    rounded = load_model(name, **options, precision="bf16")
    made = {
        "32": export(model, folder / "32", ["bottle"], verify=None),
        "int8": export(model, folder / "int8", ["bottle"], quantize="int8", verify=None),
    }
    pixels = Runtime(made["32"], threads=threads).prepare(picture(1))[None]
    index = np.zeros(1, dtype=np.int64)

    def of_torch(predictor: Any) -> Column:
        image = normalise(torch.from_numpy(pixels), predictor.method.protocol)

        def once() -> Any:
            with torch.inference_mode():
                return predictor.method(image, ["bottle"])

        return once

    def of_folder(path: Path, engine: str, precision: str = "32") -> Column:
        runtime = Runtime(path, engine, threads, precision=precision)
        return lambda: runtime.infer(pixels, index)

    timed = {
        "eager": of_torch(model),
        "bf16": of_torch(rounded),
        "onnxruntime": of_folder(made["32"], "onnxruntime"),
        "onnxruntime int8": of_folder(made["int8"], "onnxruntime"),
    }
    if version("openvino") is not None:
        timed["openvino 32"] = of_folder(made["32"], "openvino")
        timed["openvino bf16 tower"] = of_folder(made["32"], "openvino", "bf16")
    sizes = {key: sum(one.stat().st_size for one in path.glob("model.*")) / 1e6 for key, path in made.items()}
    return timed, sizes


def alternate(timed: dict[str, Column], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each column in each round; all take turns, after one pass that is not counted."""
    for once in timed.values():
        once()
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, once in timed.items():
            start = time.perf_counter()
            once()
            found[name].append(time.perf_counter() - start)
    return found


def ratios(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return each column's ratio of minima and median of ratios to the first one."""
    base = next(iter(found.values()))
    return {
        name: {
            "minima": min(times) / min(base),
            "median": statistics.median(one / other for one, other in zip(times, base, strict=True)),
            "least_ms": 1000 * min(times),
        }
        for name, times in found.items()
    }


def cold_starts(name: str, backbone: str, export_folder: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Return the least seconds from nothing to the row of a picture: ``run.py``, and torch through ``zsad score``."""
    photo = folder / "photo"
    photo.mkdir()
    picture(3).save(photo / "0.png")
    options = ["--option", "views=none"] if name == "anovl" else []
    commands = {
        "run.py": [sys.executable, str(export_folder / "run.py"), str(photo), "--class-name", "bottle"],
        "torch": [
            *(sys.executable, "-m", "zsad", "score", str(photo), "--method", name, "--backbone", backbone),
            *("--checkpoint", "untrained", "--class-name", "bottle", "--device", "cpu", *options),
        ],
    }
    least = dict.fromkeys(commands, float("inf"))
    for number in range(rounds):
        for which, command in commands.items():
            start = time.perf_counter()
            out = str(folder / f"{which}{number}")
            subprocess.run([*command, "--out", out], check=True, capture_output=True)
            least[which] = min(least[which], time.perf_counter() - start)
    return least


def main() -> None:
    """Measure and print."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--methods", nargs="+", default=["anovl", "anomalyclip", "aaclip", "winclip"])
    made.add_argument("--backbone", default="ViT-B-16-plus-240/random")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--cold", type=int, default=0, metavar="ROUNDS", help="of cold starts of the first method")
    made.add_argument("--out", type=Path, metavar="FILE", help="JSON")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "backbone": args.backbone, "rounds": args.rounds, "threads": args.threads,
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("zsad", "torch", "onnxruntime", "openvino", "onnx")},
        "methods": {},
    }  # fmt: skip
    for name in args.methods:
        folder = Path(tempfile.mkdtemp(prefix="zsad-deploy-"))
        try:
            timed, sizes = columns(name, args.backbone, folder, args.threads)
            found = ratios(alternate(timed, args.rounds))
            result["methods"][name] = {"megabytes": sizes, "columns": found}
            cells = " | ".join(f"{one['minima']:.2f} / {one['median']:.2f}" for one in found.values())
            print(f"| {name} | {' | '.join(found)} | MB 32, int8")
            print(f"| {name} ({found['eager']['least_ms']:.0f} ms) | {cells} | {sizes['32']:.1f}, {sizes['int8']:.1f}")
            if args.cold and "cold" not in result:
                del timed
                result["cold"] = cold_starts(name, args.backbone, folder / "32", folder, args.cold)
                print(f"cold start: {result['cold']}")
        finally:
            shutil.rmtree(folder)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    """Return the processor's name where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
