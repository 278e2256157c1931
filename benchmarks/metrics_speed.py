"""Time and peak memory of pixel metrics: this library, the released 200-threshold loop, scikit-learn, anomalib.

Every contestant runs in a process of its own on the same generated maps, which are made one at a time outside the
clock. The clock shows CPU seconds of one thread, since the wall clock of a shared machine shows mostly its load.

    python benchmarks/metrics_speed.py --images 60 600
    python benchmarks/metrics_speed.py --images 60 --tower     # also one ViT-L/14 image tower at 518 x 518
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

SIZE = 518
Values = dict[str, float]
Pair = tuple[NDArray[np.float32], NDArray[np.bool_]]
PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")


def images(number: int) -> Iterator[Pair]:
    """Yield smooth maps in (0, 1) with masks of 0 to 3 ellipses that the maps mark imperfectly."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for index in range(number):
        rng = torch.Generator().manual_seed(index)
        mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        for _ in range(int(torch.randint(0, 4, (), generator=rng))):
            centre, radius = torch.rand(2, generator=rng) * SIZE, 8 + 60 * torch.rand(2, generator=rng) ** 2
            mask |= ((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2 < 1
        noise = torch.randn(1, 1, 37, 37, generator=rng)
        coarse = F.adaptive_avg_pool2d(mask.float()[None, None], 37)
        logit = F.interpolate(noise + 4 * coarse - 2, size=(SIZE, SIZE), mode="bicubic", align_corners=False)[0, 0]
        yield torch.sigmoid(logit).numpy(), mask.numpy()


class Clock:
    """Adds up CPU and wall seconds of what runs inside ``with``."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> "Clock":
        self._start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._start[0]
        self.wall += time.perf_counter() - self._start[1]


def ours(mode: str, device: str, **options: Any) -> Callable[[int, Clock], Values]:
    """Return a run of this library's evaluator: image by image, never holding the maps."""

    def run(number: int, clock: Clock) -> Values:
        from zsad.metrics import Evaluator

        evaluator = Evaluator(mode, metrics=PIXEL, **options)  # type: ignore[arg-type]
        for one, mask in images(number):
            score, label = torch.tensor([float(one.max())]), torch.tensor([int(mask.any())])
            on_device = torch.from_numpy(one)[None].to(device)
            if device == "cuda":
                torch.cuda.synchronize()
            with clock:
                evaluator.update(["all"], score, label, on_device, torch.from_numpy(mask)[None])
                if device == "cuda":
                    torch.cuda.synchronize()
        with clock:
            result = evaluator.compute()
        return {**result.per_class["all"], **{f"bound {m}": b for m, b in result.bounds.get("all", {}).items()}}

    return run


def held(number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return all maps and all masks at once, as the others need them."""
    maps, masks = np.empty((number, SIZE, SIZE), np.float32), np.empty((number, SIZE, SIZE), bool)
    for index, (one, mask) in enumerate(images(number)):
        maps[index], masks[index] = one, mask
    return maps, masks


def scikit_learn(number: int, clock: Clock) -> Values:
    """AUROC, AP and F1-max of scikit-learn."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    maps, masks = held(number)
    with clock:
        truth, scores = masks.ravel(), maps.ravel()
        precision, recall, _ = precision_recall_curve(truth, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        return {
            "pixel_auroc": float(roc_auc_score(truth, scores)),
            "pixel_ap": float(average_precision_score(truth, scores)),
            "pixel_f1max": float(f1.max()),
        }


def released_loop(number: int, clock: Clock) -> Values:
    """AUPRO by 200 thresholds as the released repositories do it.

    Each threshold fills a binary copy of all maps, labels every mask again and inverts the masks again.
    """
    from skimage import measure
    from sklearn.metrics import auc

    maps, masks = held(number)
    truth = masks.astype(np.int64)
    with clock:
        low, high = maps.min(), maps.max()
        rates, overlaps = [], []
        detected = np.zeros_like(masks)
        for threshold in np.arange(low, high, (high - low) / 200):
            detected[maps <= threshold], detected[maps > threshold] = False, True
            shares = []
            for found, mask in zip(detected, truth, strict=True):
                for region in measure.regionprops(measure.label(mask)):
                    pixels = region.coords
                    shares.append(found[pixels[:, 0], pixels[:, 1]].sum() / region.area)
            normal = 1 - truth
            rates.append(np.logical_and(normal, detected).sum() / normal.sum())
            overlaps.append(np.mean(shares))
        fpr, overlap = np.array(rates), np.array(overlaps)
        kept = fpr < 0.3
        stretched = (fpr[kept] - fpr[kept].min()) / (fpr[kept].max() - fpr[kept].min())
        return {"aupro_200step": float(auc(stretched, overlap[kept]))}


def anomalib(number: int, clock: Clock) -> Values:
    """AUPRO and AUROC of anomalib."""
    from anomalib.metrics.aupro import _AUPRO
    from anomalib.metrics.auroc import _AUROC

    maps, masks = (torch.from_numpy(part) for part in held(number))
    overlap, roc = _AUPRO(), _AUROC()
    with clock:
        for one, mask in zip(maps, masks, strict=True):
            overlap.update(one[None], mask[None].int())
            roc.update(one.flatten(), mask.flatten().int())
        return {"aupro": float(overlap.compute()), "pixel_auroc": float(roc.compute())}


def tower(number: int, clock: Clock) -> Values:
    """The image tower that the metrics are compared with: ViT-L/14 on ``number`` images of 518 x 518."""
    import open_clip

    model = open_clip.create_model("ViT-L-14", force_image_size=SIZE).eval()
    pixels = torch.zeros(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        for _ in range(number):
            with clock:
                model.encode_image(pixels)
    return {}


RUNS: dict[str, tuple[str, Callable[[int, Clock], Values]]] = {
    "binned": ("ours, binned, range declared", ours("binned", "cpu", score_range=(0.0, 1.0))),
    "binned_bits": ("ours, binned, no range", ours("binned", "cpu")),
    "exact": ("ours, exact", ours("exact", "cpu")),
    "binned_cuda": ("ours, binned, GPU", ours("binned", "cuda", score_range=(0.0, 1.0))),
    "exact_cuda": ("ours, exact, GPU", ours("exact", "cuda")),
    "sklearn": ("scikit-learn AUROC, AP, F1-max", scikit_learn),
    "loop": ("released 200-threshold AUPRO", released_loop),
    "anomalib": ("anomalib AUPRO, AUROC", anomalib),
    "tower": ("ViT-L/14 image tower", tower),
}


def child(name: str, number: int) -> None:
    """Run one contestant and print a line of JSON."""
    torch.set_num_threads(1)
    run = RUNS[name][1]
    if name not in ("tower", "loop"):
        run(2, Clock())  # imports and warm-up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = Clock()
    values = run(number, clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1024**2 if sys.platform == "darwin" else 1024
    found = {"cpu": clock.cpu, "wall": clock.wall, "peak": peak / scale, "grown": (peak - before) / scale}
    print(json.dumps({**found, "values": values}))


def measure_all(numbers: list[int], names: list[str], python: dict[str, str]) -> list[dict[str, Any]]:
    """Run each contestant in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    found = []
    for number in numbers:
        for name in names:
            count = 1 if name == "tower" else number
            command = [python.get(name, sys.executable), __file__, "--child", name, str(count)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            row: dict[str, Any] = {"name": name, "images": count}
            if done.returncode:
                row["error"] = (done.stderr.strip().splitlines() or ["no output"])[-1]
            else:
                row.update(json.loads(done.stdout.strip().splitlines()[-1]))
            found.append(row)
            show(row)
    return found


def show(row: dict[str, Any]) -> None:
    """Print one line as soon as it is known."""
    title = f"{RUNS[row['name']][0]:<34} {row['images']:>4} images"
    if "error" in row:
        print(f"{title}  did not run: {row['error']}", flush=True)
        return
    values = " ".join(f"{name}={value:.6g}" for name, value in row["values"].items())
    print(
        f"{title}  {row['cpu']:8.2f} CPU s  {row['wall']:8.2f} s  {1000 * row['cpu'] / row['images']:8.1f} ms/image"
        f"  peak {row['peak']:6.0f} MiB (+{row['grown']:.0f})  {values}",
        flush=True,
    )


def main() -> None:
    """Measure what was asked for and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[60])
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), help="contestants; all that can run by default")
    parser.add_argument("--tower", action="store_true", help="also time a ViT-L/14 image tower on one image")
    parser.add_argument("--anomalib-python", help="interpreter of an environment that has anomalib")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], int(arguments.child[1]))
        return
    names = arguments.runs or ["binned", "binned_bits", "exact", "sklearn", "loop", "anomalib"]
    if not arguments.runs and torch.cuda.is_available():
        names[3:3] = ["binned_cuda", "exact_cuda"]
    if "anomalib" in names and not arguments.anomalib_python and importlib.util.find_spec("anomalib") is None:
        print("anomalib cannot be imported here and is left out; name an interpreter with --anomalib-python.")
        names.remove("anomalib")
    python = {"anomalib": arguments.anomalib_python} if arguments.anomalib_python else {}
    rows = measure_all(arguments.images, names, python)
    if arguments.tower:
        rows += measure_all([1], ["tower"], {})
    times = {(row["name"], row["images"]): row["cpu"] / row["images"] for row in rows if "cpu" in row}
    for (name, number), seconds in times.items():
        fast = times.get(("binned", number)) or times.get(("binned", arguments.images[0]))
        if fast and not name.startswith("binned"):
            print(f"{RUNS[name][0]} ({number} images): {seconds / fast:.2f} times the CPU time of the binned metrics")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
