"""Pretrain the mini CLIP that ships with the library, on two CPU cores, from generated pictures and captions.

Run from the repository root: ``python -m benchmarks.pretrain_mini_clip --out src/zsad/weights/zsad_mini.safetensors``.
The recipe is described in ``docs/mini_clip.md``. An interrupted run continues from ``--state``;
``--new-cycle`` starts the learning rate anew from there.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from benchmarks.mini_clip_captions import vocabulary
from benchmarks.mini_clip_losses import Scale, vision_loss
from benchmarks.mini_clip_pictures import GRID, PATCH, Pool, normalise
from benchmarks.mini_clip_text import CONFIG, CONSOLE, WIDTH, CaptionTable, build, train_text
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from zsad.synthetic import GENERATOR_VERSION


def initialise(visual: Any, pool: Pool, seed: int) -> None:
    """Start the patch convolution from whitened principal components, the position table from sines and cosines."""
    rng = np.random.default_rng((seed, 2))
    image = normalise(pool.image[rng.choice(len(pool.image), 400)].transpose(0, 3, 1, 2))
    patches = (
        image.unflatten(3, (GRID, PATCH))
        .unflatten(2, (GRID, PATCH))
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(-1, 3 * PATCH**2)
    )
    patches = patches - patches.mean(0)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    values, vectors = values[-WIDTH:], vectors[:, -WIDTH:]
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    whitened = vectors / values.clamp(min=float(values.max()) * 1e-3).sqrt()
    place = torch.arange(GRID, dtype=torch.float32)[:, None] * torch.pi * 2 ** torch.linspace(-4, -1, WIDTH // 4)
    axis = torch.cat([place.sin(), place.cos()], 1)  # (grid, width / 2)
    table = torch.cat([axis[:, None].expand(-1, GRID, -1), axis[None].expand(GRID, -1, -1)], -1).flatten(0, 1)
    with torch.no_grad():
        visual.conv1.weight.copy_((0.5 * rotation @ whitened.T).view(WIDTH, 3, PATCH, PATCH))
        visual.positional_embedding[1:] = 0.3 * table


def export(
    model: nn.Module,
    visual_state: dict[str, Tensor],
    token_ids: Tensor,
    path: Path,
    seed: int,
    images: int,
    patch: int = PATCH,
) -> None:
    """Write the shipped file: half precision, only the token rows that captions use, the recipe in the header."""
    tensors = {k: v for k, v in model.state_dict().items() if k != "token_embedding.weight"}
    tensors.update({f"visual.{k}": v for k, v in visual_state.items()})
    tensors = {k: v.detach().half().contiguous() for k, v in tensors.items()}
    rows = model.state_dict()["token_embedding.weight"].half()
    tensors |= {"token_ids": token_ids.int(), "token_rows": rows[1:].contiguous(), "unknown_row": rows[0].contiguous()}
    header = {
        "config": json.dumps({**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "patch_size": patch}}),
        "seed": str(seed),
        "images_seen": str(images),
        "generator_version": str(GENERATOR_VERSION),
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=header)
    partial.chmod(0o644)
    partial.replace(path)


def average(tensors: Sequence[Tensor], workers: int) -> None:
    """Replace each tensor by its mean over the processes."""
    flat = torch.cat([t.detach().flatten() for t in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.data.copy_(part.view_as(tensor) / workers)


class VisionTraining:
    """Phase 1 in one of the processes: the vision tower against the frozen text tower.

    Args:
        options: Options of the command line.
        rank: Number of the process.
    """

    def __init__(self, options: argparse.Namespace, rank: int) -> None:
        saved = torch.load(options.state, weights_only=True)
        self.options, self.rank, self.step = options, rank, 0
        self.token_ids: Tensor = saved["token_ids"]
        self.images, self.cycle_images = int(saved["images"]), int(saved.get("cycle_images", 0))
        self.minutes_before = 0.0 if options.new_cycle else float(saved["minutes"])
        if options.new_cycle:
            self.cycle_images = self.images
        torch.manual_seed(options.seed)
        self.model: Any = build(len(self.token_ids) + 1)
        self.model.load_state_dict(saved["model"])
        self.model.requires_grad_(False)
        self.model.visual.requires_grad_(True)
        self.visual: Any = self.model.visual
        self.table, self.scale = CaptionTable(self.model, self.token_ids, options.seed), Scale()
        stream = 1 + rank + options.workers * (self.images // 1000)  # a continued run draws other pictures
        self.rng = np.random.default_rng((options.seed, stream))
        self.pool = Pool(options.pool // options.workers, stream, options.fresh)
        if "optimizer" not in saved:
            initialise(self.visual, self.pool, options.seed)
        else:
            self.scale.load_state_dict(saved["scale"])
        self.parameters = [*self.visual.parameters(), *self.scale.parameters()]
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        for parameter in self.parameters:
            dist.broadcast(parameter.data, 0)  # the first pools differ, and so do their principal components
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=True)
        self.ema = {k: v.detach().clone() for k, v in self.visual.state_dict().items()}
        if "optimizer" in saved:
            self.optimizer.load_state_dict(saved["optimizer"])
            self.ema = saved["ema"]
        self.begin = self.last_save = time.monotonic()

    @property
    def minutes(self) -> float:
        """Time spent in this cycle of the learning rate, in minutes."""
        return self.minutes_before + (time.monotonic() - self.begin) / 60

    def synchronise(self) -> float:
        """Average the weights over the processes; return the part of the cycle that is done."""
        limit = self.options.minutes
        by_images = (self.images - self.cycle_images) / self.options.images
        progress = torch.tensor(max(by_images, self.minutes / limit if limit else 0.0))
        dist.all_reduce(progress, op=dist.ReduceOp.MAX)
        average(self.parameters, self.options.workers)
        return float(progress)

    def train_step(self, progress: float) -> dict[str, float]:
        """Train on one batch; return the losses."""
        seen = (self.images - self.cycle_images) / self.options.workers / self.options.batch
        rate = self.options.lr * min(1.0, (seen + 1) / 60)
        rate *= 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        pictures = self.pool.batch(self.options.batch)
        losses = vision_loss(self.visual, self.scale, pictures, self.table, self.rng, self.step)
        losses["state"] = self.options.state_weight * losses["state"]
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        keep = min(0.995, (1 + seen) / (10 + seen))
        with torch.no_grad():
            for name, value in self.visual.state_dict().items():
                self.ema[name].lerp_(value, 1 - keep)
        self.step += 1
        self.images += self.options.batch * self.options.workers
        return {name: value.item() for name, value in losses.items()}

    def save_if_due(self, finished: bool) -> bool:
        """Write the state and the weights when it is time, all processes together; return whether it was."""
        late = time.monotonic() - self.last_save > 60 * self.options.save_minutes
        due = torch.tensor(float(late or finished))
        dist.broadcast(due, 0)
        if not due:
            return False
        self.last_save = time.monotonic()
        average(list(self.ema.values()), self.options.workers)
        if self.rank == 0:
            state = {
                "model": self.model.state_dict(),
                "scale": self.scale.state_dict(),
                "ema": self.ema,
                "optimizer": self.optimizer.state_dict(),
                "token_ids": self.token_ids,
                "images": self.images,
                "cycle_images": self.cycle_images,
                "minutes": self.minutes,
            }
            torch.save(state, f"{self.options.state}.partial")
            os.replace(f"{self.options.state}.partial", self.options.state)
            export(self.model, self.ema, self.token_ids, self.options.out, self.options.seed, self.images)
        return True


def train_vision(rank: int, options: argparse.Namespace) -> None:
    """Run phase 1 in one process."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    dist.init_process_group("gloo", init_method=f"file://{options.state}.sync", rank=rank, world_size=options.workers)

    def log(text: str) -> None:
        if rank == 0:
            CONSOLE.log(text)

    training = VisionTraining(options, rank)
    log(f"{training.table.pairs} caption pairs, {len(training.pool.image)} pictures per process")
    first, progress, running = training.images, 0.0, dict[str, float]()
    while progress < 1:
        if training.step % 20 == 0:
            progress = training.synchronise()
            if training.save_if_due(finished=progress >= 1):
                log(f"saved after {training.images} images")
        for name, value in training.train_step(progress).items():
            running[name] = 0.99 * running.get(name, value) + 0.01 * value
        if training.step % 200 == 0:
            speed = (training.images - first) / (time.monotonic() - training.begin)
            parts = ", ".join(f"{name} {value:.3f}" for name, value in running.items())
            log(f"images {training.images}, progress {progress:.3f}, {speed:.0f} images/s, {parts}")
    dist.destroy_process_group()


def main() -> None:
    """Run both phases, or continue the second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("zsad_mini.safetensors"), help="the file to write")
    parser.add_argument("--state", default="/tmp/zsad_mini.pt", help="state of an interrupted run")
    parser.add_argument("--images", type=int, default=600_000, help="pictures of the cycle, repeats counted")
    parser.add_argument(
        "--new-cycle", action="store_true", help="continue a finished run with a new learning-rate cycle"
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="end phase 1 after this time at the latest; 0: no limit"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that average their weights")
    parser.add_argument("--threads", type=int, default=1, help="threads per process")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--state-weight", type=float, default=1.0, help="weight of the class token's own loss")
    parser.add_argument("--pool", type=int, default=50_000, help="pictures in memory, all processes together")
    parser.add_argument("--fresh", type=int, default=5, help="pictures drawn anew per process and step")
    parser.add_argument("--text-steps", type=int, default=900)
    parser.add_argument("--save-minutes", type=float, default=4.0)
    options = parser.parse_args()
    Path(f"{options.state}.sync").unlink(missing_ok=True)
    if not Path(options.state).exists():
        torch.manual_seed(options.seed)
        token_ids = vocabulary()
        model = build(len(token_ids) + 1)
        train_text(model, token_ids, options.seed, options.text_steps)
        torch.save({"model": model.state_dict(), "token_ids": token_ids, "images": 0, "minutes": 0.0}, options.state)
    start_processes(train_vision, args=(options,), nprocs=options.workers)


if __name__ == "__main__":
    main()
