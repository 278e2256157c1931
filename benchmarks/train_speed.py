"""Seconds per epoch of a trained method with and without the token cache: same process, same images, same order.

    python benchmarks/train_speed.py --backbone ViT-L-14-336/random --images 24

Images are drawn by the synthetic benchmark. On the CPU the clock shows CPU seconds of all threads divided by their
number, since the wall clock of a shared machine shows mostly its load (set OMP_NUM_THREADS=1 there: waiting threads
spin); wall seconds are in the JSON file.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from zsad.clip import Clip, load_clip
from zsad.datamodules import Synthetic
from zsad.methods import get_method
from zsad.methods.trained import TrainedMethod


class Clock(Callback):
    """Seconds of each epoch (what counts, wall), those before the first one, and the loss of every step."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.walls: list[float] = []
        self.losses: list[float] = []
        self.before = 0.0
        self._mark = self._now()

    def _now(self) -> tuple[float, float]:
        return time.process_time() / torch.get_num_threads(), time.perf_counter()

    def _lap(self, device: torch.device) -> tuple[float, float]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        (cpu, wall), self._mark = self._mark, self._now()
        wall = self._mark[1] - wall
        return self._mark[0] - cpu if device.type == "cpu" else wall, wall

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        lap = self._lap(pl_module.device)
        if not self.epochs:
            self.before = lap[0]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep the loss."""
        self.losses.append(float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        seconds, wall = self._lap(pl_module.device)
        self.epochs.append(seconds)
        self.walls.append(wall)


def fit(kind: type[TrainedMethod], clip: Clip, options: argparse.Namespace, epochs: int, **arguments: Any) -> Clock:
    """Train from the same start and return the clock."""
    model = kind(clip, image_size=options.image_size, **arguments)
    data = Synthetic(train_images=options.images, batch_size=options.batch_size)
    clock = Clock()
    Trainer(
        accelerator="cpu" if options.device == "cpu" else "gpu",
        devices=1,
        precision=options.precision,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    ).fit(model, data)
    return clock


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="AnomalyCLIP")
    parser.add_argument("--backbone", default="zsad-mini")
    parser.add_argument("--image-size", type=int, help="pixels; by default the method's choice for the backbone")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3, help="cached epochs")
    parser.add_argument("--uncached-epochs", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--cache-dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")

    kind = get_method(options.method)
    if not issubclass(kind, TrainedMethod):
        parser.error(f"{kind.__name__} has no token cache.")
    clip = load_clip(options.backbone, "bilinear")
    with tempfile.TemporaryDirectory() as folder:
        cached = fit(kind, clip, options, options.epochs, cache_dir=folder, cache_dtype=options.cache_dtype)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    uncached = fit(kind, clip, options, options.uncached_epochs, cache="off")
    common = min(len(cached.losses), len(uncached.losses))
    pairs = zip(cached.losses[:common], uncached.losses[:common], strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    best_cached, best_uncached = min(cached.epochs), min(uncached.epochs)
    result = {
        "method": kind.__name__,
        "backbone": clip.name,
        "image_size": options.image_size or kind(clip).protocol.size,
        "images": options.images,
        "batch_size": options.batch_size,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "precision": options.precision,
        "cache_dtype": options.cache_dtype,
        "torch": torch.__version__,
        "fill_seconds": cached.before,
        "cached_epoch_seconds": cached.epochs,
        "cached_epoch_wall_seconds": cached.walls,
        "uncached_epoch_seconds": uncached.epochs,
        "uncached_epoch_wall_seconds": uncached.walls,
        "speed_up": best_uncached / best_cached,
        "greatest_loss_difference": difference,
        "cache_megabytes_per_image": size / 1e6 / options.images,
    }
    table = Table(
        "", "seconds", title=f"{kind.__name__}, {clip.name}, {options.images} images of {result['image_size']} px"
    )
    table.add_row("fill the cache, once (and start)", f"{cached.before:.2f}")
    for number, seconds in enumerate(cached.epochs):
        table.add_row(f"epoch {number} from the cache", f"{seconds:.2f}")
    for number, seconds in enumerate(uncached.epochs):
        table.add_row(f"epoch {number} without cache", f"{seconds:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"Cached epochs are {result['speed_up']:.1f} times faster; losses of the first {common} steps differ by at "
        f"most {difference:.1e}; {result['cache_megabytes_per_image']:.1f} MB per image on disk."
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
