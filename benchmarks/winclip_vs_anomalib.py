"""WinCLIP beside anomalib's, the only packaged one: equal maps on the same images and weights, and the ratio of times.

``python benchmarks/winclip_vs_anomalib.py --venv FOLDER`` makes a virtual environment with anomalib and open_clip
2.24.0, which anomalib's window code is right for, unless FOLDER is one already. Everything else, torch above all, is
shared with the environment that runs this script, so both sides compute with the same kernels. The two sides take turns
in processes of their own. anomalib's code runs as published, but both sides get the same weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

BACKBONE = "ViT-B-16-plus-240"
CLASS = "bottle"
PINNED = ("anomalib==2.7.0", "open_clip_torch==2.24.0")
BESIDE = (
    "einops",
    "freia",
    "imagecodecs",
    "jsonargparse[signatures]<4.47",
    "kornia",
    "omegaconf",
    "pandas",
    "rich-argparse",
)
"""What anomalib imports and zsad does not need."""


def make_environment(folder: Path) -> Path:
    """Return the Python of an environment with anomalib in ``folder``; made if there is none."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if python.is_file():
        return python
    venv.create(folder, with_pip=True)
    ask: list[str | Path] = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    # later in the search path than the environment's own packages, so that open_clip is the pinned one
    Path(site, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "--no-deps", *PINNED], check=True)
    subprocess.run([*install, *BESIDE], check=True)
    return python


def enlarge(model: torch.nn.Module) -> None:
    """Give untrained weights a size at which texts and windows differ; with open_clip's own, maps are nearly flat."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)


def timed(call: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    """Return the result of a call, its wall time and its processor time, in seconds."""
    if device != "cpu":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    if device != "cpu":
        torch.cuda.synchronize()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def theirs(image: Tensor, weights: Path, device: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return anomalib's forward pass; runs in the other environment."""
    from anomalib.models.image.winclip import torch_model
    from safetensors.torch import load_file

    torch_model.PRETRAINED = None  # no download: both sides get the same weights
    model = torch_model.WinClipModel()
    model.clip.load_state_dict(load_file(weights))
    model = model.eval().to(device)
    with torch.inference_mode():
        model.setup(CLASS)

    def call() -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            found = model(image.to(device))
        return found.anomaly_map, found.pred_score

    return call


def ours(
    image: Tensor, weights: Path, device: str, chunk: int | None, precision: Any
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return zsad's forward pass."""
    from zsad.methods import WinCLIP

    model = WinCLIP(f"{BACKBONE}/{weights}", class_words="raw", chunk=chunk, image_size=240).eval().to(device)
    model.clip.cast(precision)
    with torch.inference_mode():
        model.text([CLASS])

    def call() -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            found = model(image.to(device), [CLASS] * len(image))
        return found.anomaly_map, found.pred_score

    return call


def side(arguments: argparse.Namespace) -> None:
    """Run one side and write its results into the folder."""
    torch.set_num_threads(arguments.threads)
    image = torch.from_numpy(np.load(arguments.folder / "image.npy"))
    weights = arguments.folder / "weights.safetensors"
    if arguments.side == "anomalib":
        call = theirs(image, weights, arguments.device)
    else:
        call = ours(image, weights, arguments.device, arguments.chunk, arguments.precision)
    unit = 1024**2 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    call()  # warm-up
    if arguments.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    runs = [timed(call, arguments.device) for _ in range(arguments.repeats)]
    maps, scores = runs[-1][0]
    np.savez(arguments.folder / f"{arguments.side}.npz", maps=maps.cpu().numpy(), scores=scores.cpu().numpy())
    if arguments.device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit - before  # beyond the loaded model
    else:
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"wall": [run[1] for run in runs], "cpu": [run[2] for run in runs], "peak_mib": peak}))


def main() -> int:
    """Compare both sides; return 1 if maps or scores differ by more than 1e-4, in half precision by more than 2e-3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="environment with anomalib, made if it does not exist")
    parser.add_argument("--weights", default="random", help="pretrained tag or file; 'random' needs no download")
    parser.add_argument("--images", type=int, default=2, help="images in the batch")
    parser.add_argument("--repeats", type=int, default=2, help="timed runs per turn")
    parser.add_argument("--turns", type=int, default=2, help="turns of each side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chunk", type=int, default=256, help="windows per forward pass of ours; 0 for all")
    parser.add_argument("--precision", choices=("32", "bf16", "fp16"), default="32", help="of ours; theirs is 32")
    parser.add_argument("--side", choices=("anomalib", "zsad"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.chunk = arguments.chunk or None
    if arguments.side:
        side(arguments)
        return 0
    if arguments.venv is None:
        parser.error("give --venv FOLDER: where the environment with anomalib is, or is to be made")
    pythons = {"zsad": sys.executable, "anomalib": str(make_environment(arguments.venv.absolute()))}

    from safetensors.torch import save_file

    from zsad.clip import load_clip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = load_clip(f"{BACKBONE}/{arguments.weights}").model
        if arguments.weights == "random":
            enlarge(model)
        state = model.state_dict()
        save_file({key: value.clone().contiguous() for key, value in state.items()}, folder / "weights.safetensors")
        noise = np.random.RandomState(0).standard_normal((arguments.images, 3, 240, 240))
        np.save(folder / "image.npy", noise.astype(np.float32))
        results: dict[str, list[dict[str, Any]]] = {who: [] for who in pythons}
        for _ in range(arguments.turns):
            for who, python in pythons.items():
                command = [python, __file__, "--side", who, "--folder", str(folder), "--device", arguments.device]
                for option in ("repeats", "threads", "precision"):
                    command += [f"--{option}", str(getattr(arguments, option))]
                command += ["--chunk", str(arguments.chunk or 0)]
                out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                results[who].append(json.loads(out.splitlines()[-1]))
        stored = {who: np.load(folder / f"{who}.npz") for who in pythons}
        difference = {
            key: float(np.abs(stored["zsad"][key] - stored["anomalib"][key]).max()) for key in ("maps", "scores")
        }

    best = {who: {key: min(min(one[key]) for one in runs) for key in ("wall", "cpu")} for who, runs in results.items()}
    print(f"{BACKBONE}, weights {arguments.weights}, {arguments.images} images of 240 px, scales 2 and 3, zero-shot")
    print(
        f"torch {torch.__version__}, device {arguments.device}, {arguments.threads} threads, chunk {arguments.chunk}, "
        f"ours in {arguments.precision}"
    )
    for who, times in best.items():
        memory = f", peak {max(run['peak_mib'] for run in results[who]):.0f} MiB"
        count = arguments.repeats * arguments.turns
        print(f"{who:9} best of {count}: {times['wall']:.3f} s wall, {times['cpu']:.3f} s processor{memory}")
    ratios = {key: best["anomalib"][key] / best["zsad"][key] for key in ("wall", "cpu")}
    print(f"anomalib / zsad: {ratios['wall']:.2f} wall, {ratios['cpu']:.2f} processor")
    spread = float(np.ptp(stored["zsad"]["maps"]))
    print(
        f"greatest difference: maps {difference['maps']:.2e} (values spread over {spread:.2f}), "
        f"scores {difference['scores']:.2e}"
    )
    return int(max(difference.values()) > (1e-4 if arguments.precision == "32" else 2e-3))


if __name__ == "__main__":
    sys.exit(main())
