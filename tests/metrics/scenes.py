"""Small synthetic masks and maps, and slow but independent values of AUPRO."""

from typing import Any

import numpy as np
import torch
from skimage import measure
from torch import Tensor

from zsad.metrics import EvaluationResult, Evaluator


def scene(
    n: int = 6, size: tuple[int, int] = (24, 20), seed: int = 0, levels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return maps (n, height, width) float32 in [0, 1] and masks of 0 to 3 rectangles and a diagonal scratch."""
    rng = np.random.RandomState(seed)
    height, width = size
    masks = np.zeros((n, height, width), np.uint8)
    for index in range(1, n):  # the first image is normal
        for _ in range(rng.randint(1, 4)):
            top, left = rng.randint(0, height), rng.randint(0, width)
            masks[index, top : top + rng.randint(1, 8), left : left + rng.randint(1, 8)] = 1
        start = rng.randint(0, min(size) - 4)
        for step in range(4):
            masks[index, start + step, start + step] = 1
    logits = rng.randn(n, height, width) + 1.5 * masks
    maps = (1 / (1 + np.exp(-logits))).astype(np.float32)
    if levels:
        maps = np.round(maps * levels) / np.float32(levels)
    return torch.from_numpy(maps), torch.from_numpy(masks)


def rates(
    maps: Tensor, masks: Tensor, connectivity: int, threshold: float, strict: bool = False
) -> tuple[float, float]:
    """Return (false-positive rate, mean overlap of the regions) at one threshold, region by region."""
    overlaps, false, normal = [], 0, 0
    for one, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        hit = one > threshold if strict else one >= threshold
        labels = measure.label(mask, connectivity=connectivity // 4)
        overlaps += [hit[labels == region].mean() for region in range(1, labels.max() + 1)]
        false += int((hit & (mask == 0)).sum())
        normal += int((mask == 0).sum())
    return false / normal, float(np.mean(overlaps))


def slow_aupro(maps: Tensor, masks: Tensor, limit: float = 0.3, connectivity: int = 8) -> float:
    """Return AUPRO by its definition, one distinct score after the other."""
    points = [(0.0, 0.0)]
    points += [rates(maps, masks, connectivity, t) for t in np.unique(maps.numpy())[::-1]]
    fpr, pro = np.array(points).T
    end = np.searchsorted(fpr, limit, side="right")
    if end < len(fpr):
        last = np.interp(limit, fpr[end - 1 : end + 1], pro[end - 1 : end + 1])
        fpr, pro = np.append(fpr[:end], limit), np.append(pro[:end], last)
    return float(np.trapezoid(pro, fpr) / limit)


def slow_200step(maps: Tensor, masks: Tensor, limit: float = 0.3, steps: int = 200) -> float:
    """Return AUPRO as the 200-threshold routine does."""
    low, high = float(maps.min()), float(maps.max())
    points = [rates(maps, masks, 8, low + i * (high - low) / steps, strict=True) for i in range(steps)]
    fpr, pro = np.array([point for point in points if point[0] < limit][::-1]).T
    return float(np.trapezoid(pro, (fpr - fpr.min()) / (fpr.max() - fpr.min())))


def slow_mvtec3d(maps: Tensor, masks: Tensor, limit: float = 0.3, steps: int = 100) -> float:
    """Return AUPRO with thresholds at equally spaced ranks of the normal pixels."""
    normal = np.sort(maps.numpy()[masks.numpy() == 0])
    ranks = np.linspace(0, len(normal) - 1, num=steps, dtype=int)
    points = [(1.0, 1.0)]
    points += [(1 - (rank + 1) / len(normal), rates(maps, masks, 8, normal[rank], strict=True)[1]) for rank in ranks]
    fpr, pro = np.array(points[::-1]).T
    inside = fpr <= limit
    return float(np.trapezoid([*pro[inside], np.interp(limit, fpr, pro)], [*fpr[inside], limit]) / limit)


CLASSES = ("metal.nut", "pill", "zipper")  # a dot must not matter


def images(size: int = 6) -> list[tuple[str, float, int, Tensor, Tensor]]:
    """Return (class, score, label, map, mask) of ``size`` images of each class, mixed."""
    found = []
    for seed, name in enumerate(CLASSES):
        maps, masks = scene(size, seed=seed)
        rng = np.random.RandomState(seed)
        for index in range(size):
            label = int(index > 2)
            mask = masks[index] if label else torch.zeros_like(masks[index])
            found.append((name, float(rng.rand() + 0.3 * label), label, maps[index], mask))
    return [found[index] for index in np.random.RandomState(9).permutation(len(found))]


def feed(evaluator: Evaluator, items: list[Any], batch: int = 4, **dtype: Any) -> EvaluationResult:
    for start in range(0, len(items), batch):
        names, scores, labels, maps, masks = zip(*items[start : start + batch], strict=True)
        evaluator.update(names, torch.tensor(scores), torch.tensor(labels), torch.stack(maps), torch.stack(masks))
    return evaluator.compute()
