"""Measure the embedded mini CLIP on the four synthetic test sets, beside two scores that need no model.

Run from the repository root: ``python -m benchmarks.mini_clip_quality --out quality.json``. Synthetic images only: the
figures say nothing about real ones.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from zsad.clip import Clip, load_clip
from zsad.clip.blocks import two_path
from zsad.methods import get_method
from zsad.methods.prototypes import prototypes
from zsad.prompts import load_prompts
from zsad.synthetic import Split, SyntheticSample, split_samples
from zsad.synthetic.trivial import centre_prior, colour_outlier
from zsad.types import CLIP_MEAN, CLIP_STD, Context

TEMPERATURE = 0.07
Floats = NDArray[np.float64]


def to_tensor(samples: Sequence[SyntheticSample]) -> Tensor:
    """Return normalised images (samples, 3, height, width)."""
    images = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std


def mean_over_classes(names: Sequence[str], measure: Callable[[NDArray[np.bool_]], float]) -> float:
    """Return 100 x the mean over classes of a measure of the pictures that a boolean array picks."""
    column = np.array(names)
    return float(100 * np.mean([measure(column == name) for name in dict.fromkeys(names)]))


def image_auroc(samples: Sequence[SyntheticSample], scores: Floats) -> float:
    """Return the image AUROC in per cent, mean over classes."""
    labels = np.array([bool(s.defect) for s in samples])
    return mean_over_classes([s.class_name for s in samples], lambda pick: roc_auc_score(labels[pick], scores[pick]))


def pixel_metric(samples: Sequence[SyntheticSample], maps: Floats, average_precision: bool = False) -> float:
    """Return the pixel AUROC (or average precision) in per cent, mean over classes."""
    masks = np.stack([s.mask for s in samples])
    metric = average_precision_score if average_precision else roc_auc_score
    names = [s.class_name for s in samples]
    return mean_over_classes(names, lambda pick: metric(masks[pick].ravel(), maps[pick].ravel()))


@torch.inference_mode()
def mini_clip_scores(clip: Clip, samples: Sequence[SyntheticSample]) -> dict[str, Floats]:
    """Return image scores of the class token and maps of every block and of the V-V stream, with WinCLIP's prompts."""
    names = [s.class_name for s in samples]
    classes = list(dict.fromkeys(names))
    text = prototypes(clip, load_prompts("winclip"), classes)[[classes.index(name) for name in names]]
    parts: dict[str, list[Tensor]] = {}
    layers = range(1, clip.depth + 1)
    for start in range(0, len(samples), 64):
        image, sides = to_tensor(samples[start : start + 64]), text[start : start + 64]

        def anomaly(tokens: Tensor, sides: Tensor = sides) -> Tensor:
            cosine = torch.einsum("bnd,bsd->bns", F.normalize(tokens, dim=-1), sides)
            return (cosine / TEMPERATURE).softmax(-1)[..., 1]

        def enlarge(values: Tensor, image: Tensor = image) -> Tensor:
            maps = values.unflatten(1, clip.grid(image))[:, None]
            return F.interpolate(maps, size=image.shape[-2:], mode="bilinear")[:, 0]

        tokens = clip.encode_image(image, layers)
        state, _ = clip.run_image(clip.embed_image(image), two_path(1))
        side = clip.project(clip.ln_post(state.side[0][:, 1:]))
        parts.setdefault("image", []).append(anomaly(tokens.cls[:, None])[:, 0])
        parts.setdefault("V-V", []).append(enlarge(anomaly(side)))
        for layer in layers:
            parts.setdefault(f"block {layer}", []).append(enlarge(anomaly(tokens.patches[layer])))
    return {name: torch.cat(values).double().numpy() for name, values in parts.items()}


@torch.inference_mode()
def winclip_scores(clip: Clip, samples: Sequence[SyntheticSample]) -> tuple[Floats, Floats]:
    """Return WinCLIP's maps and image scores."""
    method = get_method("winclip")(backbone=clip).eval()
    maps, scores = [], []
    for start in range(0, len(samples), 32):
        part = samples[start : start + 32]
        names = [s.class_name for s in part]
        paths = [str(start + k) for k in range(len(part))]
        classes = list(dict.fromkeys(names))
        text = method.text_features(classes)[[classes.index(name) for name in names]]
        prediction = method.score(to_tensor(part), text, Context(names, paths))
        maps.append(prediction.anomaly_map)
        scores.append(prediction.pred_score)
    return torch.cat(maps).double().numpy(), torch.cat(scores).double().numpy()


def measure(clip: Clip, split: Split, n: int, seed: int, windows: bool) -> dict[str, float]:
    """Return the row of one test set, all values in per cent."""
    samples = split_samples(split, n, seed)
    scores = mini_clip_scores(clip, samples)
    last = scores[f"block {clip.depth}"]
    outlier_maps, outlier_scores = zip(*(colour_outlier(s.image) for s in samples), strict=True)
    prior = np.stack([centre_prior(*s.mask.shape) for s in samples])
    row = {
        "images": float(n),
        "defective pixels": 100 * float(np.mean([s.mask.mean() for s in samples])),
        "image AUROC, class token": image_auroc(samples, scores["image"]),
        "image AUROC, map maximum": image_auroc(samples, last.max((1, 2))),
        "pixel AUROC, last block": pixel_metric(samples, last),
        "pixel AUROC, V-V": pixel_metric(samples, scores["V-V"]),
        "pixel AP, last block": pixel_metric(samples, last, average_precision=True),
        **{f"pixel AUROC, block {k}": pixel_metric(samples, scores[f"block {k}"]) for k in range(1, clip.depth)},
        "centre prior, pixel AUROC": pixel_metric(samples, prior.astype(float)),
        "colour outlier, pixel AUROC": pixel_metric(samples, np.stack(outlier_maps).astype(float)),
        "colour outlier, image AUROC": image_auroc(samples, np.array(outlier_scores)),
    }
    if windows:
        maps, image = winclip_scores(clip, samples)
        row["WinCLIP, pixel AUROC"] = pixel_metric(samples, maps)
        row["WinCLIP, image AUROC"] = image_auroc(samples, image)
    return row


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=672, help="pictures of the sets with seen classes")
    parser.add_argument("--held-out-images", type=int, default=600, help="pictures of the sets with held-out classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", action="store_true", help="measure WinCLIP as well (slower)")
    parser.add_argument("--backbone", default="zsad-mini-2")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    clip = load_clip(options.backbone)
    rows: dict[str, dict[str, float]] = {}
    for split in get_args(Split):
        n = options.held_out_images if split in ("held-out classes", "held-out both") else options.images
        rows[split] = measure(clip, split, n, options.seed, options.windows)
    table = Table("per cent, mean over classes", *rows, title="synthetic images, mini CLIP, WinCLIP's prompts")
    for name in rows["seen"]:
        table.add_row(name, *(f"{row[name]:.0f}" if name == "images" else f"{row[name]:.1f}" for row in rows.values()))
    Console().print(table)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
