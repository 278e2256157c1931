"""Confidence intervals by drawing images with replacement.

Keeping every map would undo the fixed memory of the binned mode, so each image leaves a small table behind: how many
of its pixels lie in each of 2 ** 16 coarser bins. Resampled values come from these tables; only how they spread is
used, around the value computed from the fine state.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zsad.metrics.accumulator import REGION_UNIT, ListMetric
from zsad.metrics.bins import ScoreBins
from zsad.metrics.counts import Counts, count_scores
from zsad.metrics.regions import Regions

COARSE_BITS = 16
GROUPS = 4096
"""Rows of pixel scores that resampling works with; neighbouring coarse bins are joined."""


class ImageTables(ListMetric):
    """Keeps what resampling needs of each image; order of images, batches and processes do not matter.

    Args:
        score_range: Declared range of the pixel scores, or None.
        **kwargs: Of ``torchmetrics.Metric``.
    """

    def __init__(self, score_range: tuple[float, float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = ScoreBins(score_range, COARSE_BITS)
        self.add_list("image", torch.float64, 3)  # score, label, number of regions; NaN where unknown
        self.add_list("key", torch.int64)  # identifies an image by its content
        self.add_list("row", torch.int64, 5)  # key, bin, negatives, positives, region weight in integer units

    def update(self, score: float, label: float, scores: Tensor | None = None, found: Regions | None = None) -> None:
        """Add one image.

        Args:
            score: Its image score.
            label: 1 anomalous, 0 normal, NaN unknown.
            scores: Its map, or None.
            found: Its defect pixels, or None without a mask.
        """
        image = torch.tensor([score, label, torch.nan if found is None else found.number], dtype=torch.float64)
        table = torch.zeros(0, 4, dtype=torch.int64)
        if scores is not None and found is not None:
            table = self._table(scores.float().flatten(), found)
        digest = hashlib.blake2b(image.numpy().tobytes() + table.numpy().tobytes(), digest_size=8).digest()
        key = torch.tensor(int.from_bytes(digest, "little", signed=True))
        row = torch.cat([key.expand(len(table), 1), table], dim=1)
        for name, value in (("image", image[None]), ("key", key[None]), ("row", row)):
            getattr(self, name).append(value.to(self.device))

    def _table(self, scores: Tensor, found: Regions) -> Tensor:
        """Return (bin, negatives, positives, region weight) of the occupied coarse bins, on the CPU."""
        number, pixel = self.bins(scores), found.pixel.to(scores.device)
        size = len(self.bins)
        total = torch.bincount(number, minlength=size)
        positive = torch.bincount(number[pixel], minlength=size)
        weight = torch.zeros_like(total).scatter_add_(0, number[pixel], (REGION_UNIT // found.area).to(number.device))
        bins = total.nonzero().flatten()
        return torch.stack([bins, (total - positive)[bins], positive[bins], weight[bins]], dim=1).cpu()

    def compute(self) -> None:
        """Nothing: see :func:`resample`."""


def resample(
    tables: ImageTables,
    image_metrics: Mapping[str, Callable[[Counts], Tensor]],
    pixel_metrics: Mapping[str, Callable[[Counts], Tensor]],
    draws: int,
    seed: int,
) -> dict[str, Tensor]:
    """Return, per metric, its value on the tables and then on ``draws`` resampled sets of images, (1 + draws,) float64.

    Args:
        tables: The images, synchronised.
        image_metrics: Name -> value of image-level counts.
        pixel_metrics: Name -> value of pixel-level counts.
        draws: How many sets of images to draw.
        seed: Seed of the draws; equal images give equal draws whatever order they came in.
    """
    key, order = tables.joined("key").cpu().sort(stable=True)
    image = tables.joined("image").cpu()[order]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(key), (draws, len(key)), generator=generator)
    times = torch.zeros(draws, len(key), dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
    times = torch.cat([torch.ones(1, len(key), dtype=torch.float64), times])

    values: dict[str, list[Tensor]] = {name: [] for name in (*image_metrics, *pixel_metrics)}
    known = ~image[:, 1].isnan()
    for weight in times[:, known] if image_metrics else ():
        counts = _image_counts(image[known], weight.long())
        for name, value in image_metrics.items():
            values[name].append(value(counts))
    if pixel_metrics:
        regions = times @ image[:, 2].nan_to_num(0.0)
        lowest, table = _grouped(tables.joined("row").cpu(), key)
        negative, positive, overlap = (times @ part for part in table)
        for counts in _pixel_counts(lowest, negative, positive, overlap / REGION_UNIT, regions):
            for name, value in pixel_metrics.items():
                values[name].append(value(counts))
    return {name: torch.stack(found) for name, found in values.items()}


def _image_counts(image: Tensor, times: Tensor) -> Counts:
    score, anomalous = image[:, 0].repeat_interleave(times), image[:, 1].repeat_interleave(times) > 0.5
    return count_scores(score[anomalous], score[~anomalous])


def _grouped(row: Tensor, key: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return bins (g,), falling, and three tables (images, g): negatives, positives, region weight of each image."""
    bins, column = row[:, 1].unique(return_inverse=True)
    if len(bins) > GROUPS:  # join neighbours so that groups hold about equal shares of the pixels
        mass = torch.zeros(len(bins), dtype=torch.float64)
        for part in (row[:, 2], row[:, 3]):  # of each label, since anomalous pixels are few
            mass += torch.zeros_like(mass).scatter_add_(0, column, part.double()) / max(int(part.sum()), 1)
        group = (mass.cumsum(0) * ((GROUPS - 1) / float(mass.sum()))).long()
        column, bins = group[column], torch.arange(GROUPS)
    column = len(bins) - 1 - column
    place = torch.searchsorted(key, row[:, 0].contiguous()) * len(bins) + column
    size = len(key) * len(bins)
    tables = [
        torch.zeros(size, dtype=torch.float64).scatter_add_(0, place, part.double()).view(len(key), len(bins))
        for part in row[:, 2:].unbind(1)
    ]
    return bins.flip(0), (tables[0], tables[1], tables[2])


def _pixel_counts(lowest: Tensor, negative: Tensor, positive: Tensor, overlap: Tensor, regions: Tensor) -> Any:
    for fp, tp, pro, number in zip(negative, positive, overlap, regions, strict=True):
        used = (fp + tp) > 0
        yield Counts(
            lowest[used],
            lowest[used],
            tp[used].cumsum(0),
            fp[used].cumsum(0),
            pro[used].cumsum(0),
            float(number),
        )


def interval(value: float, resampled: Tensor, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of the resampled values, shifted so that their first entry meets ``value``.

    Args:
        value: The value of the fine state.
        resampled: Value on the tables, then on the resampled sets; NaN entries are left out.
        confidence: Share of the resampled values inside, e.g. 0.95.
    """
    spread = resampled[1:][~resampled[1:].isnan()]
    if not len(spread) or value != value:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = torch.quantile(spread, torch.tensor([tail, 1 - tail], dtype=spread.dtype)) + (value - resampled[0])
    return max(0.0, float(low)), min(1.0, float(high))
