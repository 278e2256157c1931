"""Which maps to show of a class: the best, the median and the worst, by the pixels of their own image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zsad.datamodules import BenchmarkDataModule
from zsad.datamodules.dataset import AnomalyDataset
from zsad.decision.conformal import images_needed
from zsad.decision.entry import RegionRule
from zsad.images.overlay import outline, overlay
from zsad.methods import Method
from zsad.methods.tiled import as_batch, predict_tiles
from zsad.metrics import auroc

SIDE = 192
_ALPHA = 0.05


def save_pictures(
    method: Method, data: BenchmarkDataModule, path: Path, device: torch.device, most: int = 200
) -> list[Path]:
    """Write ``PATH-best.jpg``, ``-median.jpg`` and ``-worst.jpg``: the image with its defect outlined, beside its map.

    Maps are ranked by the AUROC of their own pixels. The colour scale is the range of the maps looked at, the same for
    the three. On the map, regions are outlined that 5 % of the class's normal images would show, by the largest values
    of 19 of them (:meth:`zsad.decision.entry.RegionRule.of_maxima`); no lines where there are fewer.

    Args:
        method: On the device, in eval mode.
        data: One class, with masks.
        path: Without ending.
        device: Where the method is.
        most: Anomalous images looked at, spread evenly over the class.
    """
    dataset = data.dataset("test")
    records = data.select("test")
    candidates = [number for number, record in enumerate(records) if record.label == 1]
    if len(candidates) > most:
        candidates = [candidates[i] for i in np.linspace(0, len(candidates) - 1, most).astype(int)]
    ranked: list[tuple[float, int]] = []
    low, high = np.inf, -np.inf
    for number in candidates:
        heat, mask, _ = _predict(method, dataset, number, device)
        low, high = min(low, float(heat.min())), max(high, float(heat.max()))
        if mask.any() and not mask.all():
            ranked.append((float(auroc(heat.flatten(), mask.flatten())), number))
    ranked.sort(reverse=True)
    threshold = _pixel_threshold(method, data, device)
    written = []
    for name, place in _places(len(ranked)):
        heat, mask, image = _predict(method, dataset, ranked[place][1], device)
        size = (SIDE, max(1, round(SIDE * image.height / image.width)))
        small = image.resize(size, Image.Resampling.BICUBIC)
        marked = outline(small, np.asarray(Image.fromarray(mask.numpy()).resize(size, Image.Resampling.NEAREST)))
        sheet = Image.new("RGB", (2 * size[0], size[1]))
        sheet.paste(marked, (0, 0))
        above = Image.fromarray(heat.numpy() >= threshold).resize(size, Image.Resampling.NEAREST)
        sheet.paste(outline(overlay(small, heat.numpy(), (low, high)), np.asarray(above)), (size[0], 0))
        target = path.with_name(f"{path.name}-{name}.jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(target, quality=85)
        written.append(target)
    return written


def _pixel_threshold(method: Method, data: BenchmarkDataModule, device: torch.device) -> float:
    """The value that a map of a normal image reaches with a probability of at most 5 %; infinite with too few."""
    normal = [number for number, record in enumerate(data.select("test")) if record.label == 0]
    enough = images_needed(_ALPHA)  # no more: each costs a pass
    if len(normal) < enough:
        return float("inf")
    chosen = [normal[place] for place in np.linspace(0, len(normal) - 1, enough).astype(int)]
    dataset = data.dataset("test")
    maxima = [float(_predict(method, dataset, number, device)[0].max()) for number in chosen]
    return RegionRule.of_maxima(maxima, _ALPHA).pixel_threshold


def _places(number: int) -> Sequence[tuple[str, int]]:
    return [] if not number else [("best", 0), ("median", number // 2), ("worst", number - 1)]


def _predict(
    method: Method, dataset: AnomalyDataset, number: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, Image.Image]:
    """Map, mask and picture of one sample, all of the map's size."""
    sample = dataset[number]
    with torch.inference_mode():
        if "tiles" in sample:
            heat = predict_tiles(method, as_batch(sample, device)).anomaly_map[0].float().cpu()
            picture = dataset.read(dataset.records[number])[0].resize((heat.shape[1], heat.shape[0]))
            return heat, sample["gt_mask"].bool(), picture
        image = sample["image"][None].to(device)
        heat = method(image, [sample["class_name"]], [sample["image_path"]]).anomaly_map[0].float().cpu()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (method.protocol.mean, method.protocol.std))
    pixels = ((sample["image"] * std + mean).clamp(0, 1) * 255).round().byte()
    return heat, sample["gt_mask"].bool(), Image.fromarray(pixels.permute(1, 2, 0).numpy())
