"""Train the second edition of the mini CLIP, with smaller patches, from the weights of the first, in one process.

Run from the repository root: ``python -m benchmarks.continue_mini_clip``; the state lies under ``$ZSAD_HOME/mini``, and
an interrupted run continues from there. The recipe is described in ``docs/mini_clip.md``.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.mini_clip_losses import Scale
from benchmarks.mini_clip_pictures import SIZE
from benchmarks.mini_clip_second import PATCH, WiderPool, second_loss
from benchmarks.mini_clip_text import CONSOLE, CaptionTable, build
from benchmarks.pretrain_mini_clip import export
from safetensors import safe_open
from torch import Tensor

from zsad.clip.loading import cached_weights
from zsad.weights.places import home


def first_edition() -> tuple[dict[str, Tensor], Tensor]:
    """Return the state of the compact model with the first edition's weights, and its token ids."""
    with safe_open(str(cached_weights("zsad-mini")), framework="pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    ids, rows, unknown = (stored.pop(key) for key in ("token_ids", "token_rows", "unknown_row"))
    stored["token_embedding.weight"] = torch.cat([unknown[None], rows])
    weights = {key: tensor.float() for key, tensor in stored.items()}
    kernel, places = weights["visual.conv1.weight"], weights["visual.positional_embedding"]
    # a patch of 8 pixels sees what one of 12 saw, in less detail: the same answer from fewer, larger weights
    weights["visual.conv1.weight"] = shrink(kernel, PATCH) * (kernel.shape[-1] / PATCH) ** 2
    weights["visual.positional_embedding"] = torch.cat([places[:1], enlarge(places[1:], SIZE // PATCH)])
    return weights, ids.long()


def shrink(kernel: Tensor, side: int) -> Tensor:
    """Return a patch convolution's kernel at another size."""
    return F.interpolate(kernel, (side, side), mode="bicubic", antialias=True)


def enlarge(places: Tensor, side: int) -> Tensor:
    """Return the position table of a square grid for another grid."""
    grid = places.T.unflatten(1, (math.isqrt(len(places)), -1))[None]
    return F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)[0].flatten(1).T


class Continuation:
    """The vision tower against the frozen text tower.

    Args:
        options: Options of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.images, self.seconds = options, 0, 0.0
        weights, self.token_ids = first_edition()
        torch.manual_seed(options.seed)
        self.model: Any = build(len(self.token_ids) + 1, PATCH)
        self.model.load_state_dict(weights, strict=False)
        self.model.requires_grad_(False)
        self.visual: Any = self.model.visual
        self.visual.requires_grad_(True)
        self.scale = Scale()
        self.parameters = [*self.visual.parameters(), *self.scale.parameters()]
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=True)
        self.average = {k: v.detach().clone() for k, v in self.visual.state_dict().items()}
        self.state = options.folder / "state.pt"
        if self.state.exists():
            saved = torch.load(self.state, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.scale.load_state_dict(saved["scale"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.average, self.images, self.seconds = saved["average"], saved["images"], saved["seconds"]
        self.table = CaptionTable(self.model, self.token_ids, options.seed)
        stream = 100 + self.images // 1000  # a continued run draws other pictures
        self.rng = np.random.default_rng((options.seed, stream))
        self.pool = WiderPool(options.pool, stream, options.fresh)
        self.begin = time.monotonic()

    @property
    def progress(self) -> float:
        """Part of the run that is done, by images or by time, whichever is further."""
        minutes = (self.seconds + time.monotonic() - self.begin) / 60
        return max(self.images / self.options.images, minutes / self.options.minutes if self.options.minutes else 0.0)

    def train_step(self, step: int) -> dict[str, float]:
        """Train on one batch; return the losses."""
        rate = self.options.lr * min(1.0, (self.images / self.options.batch + 1) / 100)
        rate *= 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(self.progress, 1)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        pictures = self.pool.batch(self.options.batch)
        losses = second_loss(self.visual, self.scale, pictures, self.table, self.rng, step)
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.images += self.options.batch
        seen = self.images / self.options.batch
        keep = min(0.999, (1 + seen) / (10 + seen))
        with torch.no_grad():
            for name, value in self.visual.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)
        return {name: value.item() for name, value in losses.items()}

    def save(self) -> None:
        """Write the state, and the averaged weights as they would ship."""
        saved = {
            "model": self.model.state_dict(),
            "scale": self.scale.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "images": self.images,
            "seconds": self.seconds + time.monotonic() - self.begin,
        }
        partial = self.state.with_suffix(".partial")
        torch.save(saved, partial)
        os.replace(partial, self.state)
        out = self.options.folder / "zsad_mini_2.safetensors"
        export(self.model, self.average, self.token_ids, out, self.options.seed, self.images, PATCH)

    def run(self) -> None:
        """Train to the end, saving now and then."""
        step, saved, running, first = 0, time.monotonic(), dict[str, float](), self.images
        curve = self.options.folder / "curve.jsonl"
        while self.progress < 1:
            for name, value in self.train_step(step).items():
                running[name] = 0.99 * running.get(name, value) + 0.01 * value
            step += 1
            if step % 200 == 0:
                speed = (self.images - first) / (time.monotonic() - self.begin)
                CONSOLE.log(
                    f"images {self.images}, progress {self.progress:.3f}, {speed:.0f} images/s, "
                    + ", ".join(f"{name} {value:.3f}" for name, value in running.items())
                )
                with curve.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"images": self.images, **running}) + "\n")
            if time.monotonic() - saved > 60 * self.options.save_minutes or self.progress >= 1:
                saved = time.monotonic()
                self.save()


def main() -> None:
    """Run or continue."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=home() / "mini", help="state, curve and weights")
    parser.add_argument("--images", type=int, default=1_000_000, help="pictures, repeats counted")
    parser.add_argument("--minutes", type=float, default=0.0, help="end after this time at the latest; 0: no limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--pool", type=int, default=20_000, help="pictures in memory")
    parser.add_argument("--fresh", type=int, default=5, help="pictures drawn anew per step")
    parser.add_argument("--save-minutes", type=float, default=4.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    options.folder.mkdir(parents=True, exist_ok=True)
    Continuation(options).run()


if __name__ == "__main__":
    main()
