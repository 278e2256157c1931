"""Peak memory of ``zsad test`` as the data set grows: with binned metrics it must not grow with it.

    python benchmarks/memory_of_test.py --images 500 10000

Each size is a folder of generated images with masks, and a process of its own; what counts is its greatest resident
size, as the kernel saw it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from zsad.synthetic import generate

_KINDS = 8


def fill(root: Path, number: int) -> None:
    """Write images of one class, half of them with a defect and its mask; few of them differ."""
    for index in range(number):
        defect = "hole" if index % 2 else ""
        place = root / "gear" / "test" / (defect or "good") / f"{index:05d}.png"
        mask = root / "gear" / "ground_truth" / "hole" / f"{index:05d}_mask.png"
        first = place.with_name(f"{index % _KINDS:05d}.png")
        if index < _KINDS:
            place.parent.mkdir(parents=True, exist_ok=True)
            mask.parent.mkdir(parents=True, exist_ok=True)
            sample = generate("gear", defect, seed=index)
            Image.fromarray(sample.image).save(place)
            if defect:
                Image.fromarray(np.asarray(sample.mask, dtype=np.uint8) * 255).save(mask)
            continue
        os.link(first, place)
        if defect:
            os.link(mask.with_name(f"{index % _KINDS:05d}_mask.png"), mask)


def peak_megabytes(root: Path) -> float:
    """Greatest resident size of ``zsad test`` on a folder, in 10^6 bytes."""
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    command = ["test", "--model", "CLIP", "--model.backbone=zsad-mini", "--data", "Folder", "--data.root", str(root)]
    code = (
        "import resource, sys\n"
        "from zsad.cli.main import main\n"
        f"status = main({[*command, '--data.batch_size=16', *quiet]!r})\n"
        "print('PEAK', status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, peak = next(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("PEAK"))
    if status != "0":
        raise RuntimeError(done.stderr)
    return int(peak) / 1e3 * 1.024


def main(arguments: list[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 10_000])
    options = parser.parse_args(arguments)
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        for number in options.images:
            fill(Path(name) / str(number), number)
            peaks[number] = round(peak_megabytes(Path(name) / str(number)), 1)
            print(number, peaks[number], file=sys.stderr, flush=True)
    sizes = list(peaks.values())
    print(json.dumps({"peak_megabytes": peaks, "last_to_first": round(sizes[-1] / sizes[0], 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
