"""What comparing a folder's images costs: zsad's blocked products against the released loop's formulation, and growth.

Features are random; the released loop is written down from its description: for each image the distances of its
patches to all patches of all other images at once (``torch.cdist``), the nearest patch of each, the mean of the nearest
images. On a CPU the process's own time is taken, which neighbours disturb less than the wall's:
python -m benchmarks.musc_speed [--device cuda] [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.methods.musc.mutual import cosine_table, interval_bounds, interval_mean, mutual_scores

SHAPES = {(1369, 1024): (5, 8, 12), (225, 896): (10, 20, 40), (64, 128): (16, 32, 64, 128)}
"""Patches and width -> numbers of images: ViT-L at 518, ViT-B/16+ at 240, zsad-mini."""


def released(features: Tensor) -> Tensor:
    """The released formulation: one matrix of distances per image, the others copied together for it."""
    number = len(features)
    scores = []
    for place, image in enumerate(features):
        others = torch.cat([features[:place], features[place + 1 :]])
        distances = torch.cdist(image[None], others.flatten(0, 1)[None])[0]
        nearest = distances.unflatten(1, (number - 1, -1)).amin(dim=2)
        scores.append(nearest.topk(interval_bounds((0.0, 0.3), number - 1)[1], dim=1, largest=False).values.mean(dim=1))
    return torch.stack(scores)


def seconds(call: Callable[[], Tensor], repeat: int) -> tuple[float, Tensor]:
    """The shortest of some runs, and what it returned: wall time on a GPU, the process's CPU time else."""
    times = []
    for _ in range(repeat):
        before = (time.perf_counter(), time.process_time())
        result = call()
        if result.device.type == "cuda":
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
        times.append(cpu if result.device.type == "cpu" else wall)
    return min(times), result


def against(features: Tensor, panel: Tensor) -> Tensor:
    """Scores of images that are not in the panel, eight at a time."""
    parts = [cosine_table(part, lambda first, stop: panel[first:stop], len(panel)) for part in features.split(8)]
    return interval_mean(torch.cat(parts), interval_bounds((0.0, 0.3), len(panel)))


def unit(number: int, patches: int, width: int, device: str) -> Tensor:
    """Random unit-length features."""
    noise = torch.randn(number, patches, width, generator=torch.Generator().manual_seed(number))
    return F.normalize(noise, dim=-1).to(device)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small shapes only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.device}, {args.threads} thread(s), torch {torch.__version__}; seconds, best of {args.repeat}")
    print("patches width images  released  row-wise  blocked  ratio  greatest difference")
    for (patches, width), numbers in SHAPES.items():
        if args.quick and patches > 300:
            continue
        for number in numbers:
            features = unit(number, patches, width, args.device)
            loop, expected = seconds(partial(released, features), args.repeat)
            little = 4.0 * number * number * patches - 1  # the table does not fit
            rows, _ = seconds(partial(mutual_scores, features, memory=little), args.repeat)
            blocked, got = seconds(partial(mutual_scores, features), args.repeat)
            difference = float((got[0] - expected).abs().max())
            print(
                f"{patches:7d} {width:5d} {number:6d} {loop:9.3f} {rows:9.3f} {blocked:8.3f} {loop / blocked:6.1f}"
                f"  {difference:.1e}",
                flush=True,
            )
    print("growth, 64 patches of width 128: whole folder, and images against a panel of 32")
    panel = unit(32, 64, 128, args.device)
    for number in (32, 64, 128, 256, 512):
        features = unit(number, 64, 128, args.device)
        whole, _ = seconds(partial(mutual_scores, features), args.repeat)

        fixed, _ = seconds(partial(against, features, panel), args.repeat)
        print(f"{number:6d} {whole:9.3f} {fixed:9.3f}", flush=True)


if __name__ == "__main__":
    main()
