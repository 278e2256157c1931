r"""What a warm start costs: the first score of a process, against what torch, open_clip and the weights take anyway.

    OMP_NUM_THREADS=1 python benchmarks/first_score.py --rounds 5

AnoVL without views on one picture, its text vectors on disk; the weights are random ones in a file, which is written
first. Each start is a process of its own, from its first instruction to its result, of ``zsad score`` to its end;
starts alternate. The bare start imports torch and open_clip and lets open_clip build and read the model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from zsad.clip import load_clip

_BARE = "import os, torch, open_clip; open_clip.create_model({model!r}, pretrained={file!r}); os._exit(0)"
_PYTHON = (
    "import os; from zsad import load_model; "
    "load_model('anovl', {backbone!r}, views='none', device='cpu').predict({picture!r}, class_name='bottle'); "
    "os._exit(0)"
)


def seconds(command: list[str], home: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere, env={**os.environ, "ZSAD_HOME": str(home)})
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}.")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime


def main(arguments: list[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16-plus-240")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, picture = folder / "weights.safetensors", folder / "in" / "picture.png"
        save_file(load_clip(f"{options.model}/random").model.state_dict(), file)
        picture.parent.mkdir()
        noise = np.random.default_rng(0).integers(0, 255, (240, 240, 3), dtype=np.uint8)
        Image.fromarray(noise).save(picture)
        given = {"model": options.model, "file": str(file), "picture": str(picture)}
        backbone = f"{options.model}/{file}"
        score = ["score", str(picture.parent), "--out", str(folder / "out"), "--fresh", "--no-overlays", "--device=cpu"]
        starts = {
            "bare": ["-c", _BARE.format(**given)],
            "load_model, predict": ["-c", _PYTHON.format(backbone=backbone, **given)],
            "zsad score": ["-m", "zsad", *score, "--class-name=bottle", f"--backbone={backbone}"],
        }
        for start in starts.values():  # files in memory, text vectors on disk
            seconds([sys.executable, *start], folder / "home")
        found: dict[str, list[tuple[float, float]]] = {what: [] for what in starts}
        for _ in range(options.rounds):
            for what, start in starts.items():
                found[what].append(seconds([sys.executable, *start], folder / "home"))
        best = {what: [min(column) for column in zip(*times, strict=True)] for what, times in found.items()}
        share = {what: [a / b for a, b in zip(one, best["bare"], strict=True)] for what, one in best.items()}
        print(json.dumps({"options": vars(options), "wall_cpu": best, "to_bare": share}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
