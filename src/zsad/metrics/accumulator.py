"""States of the metrics over batches and processes: all scores, or histograms of fixed size."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from zsad.metrics.bins import ScoreBins
from zsad.metrics.counts import Counts, count_scores
from zsad.metrics.notices import warn_clamped, warn_undefined, warn_wide, why_undefined
from zsad.metrics.pairs import check_finite
from zsad.metrics.regions import Regions

Mode = Literal["exact", "binned"]
BLOCK = 2**16
"""Scores that are put into bins at a time on the host."""
REGION_UNIT = 2**44
"""Weight of one region where weights are integers; a class may then have up to 2 ** 19 regions."""


class ListMetric(Metric):
    """A metric with list states of known types, so that a process without data can take part in the exchange."""

    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._list_types: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}

    def add_list(self, name: str, dtype: torch.dtype, *row: int) -> None:
        """Add a state of concatenated tensors of shape (n, *row)."""
        self.add_state(name, default=[], dist_reduce_fx="cat")
        self._list_types[name] = (dtype, row)

    def joined(self, name: str) -> Tensor:
        """Return a list state as one tensor."""
        parts, (dtype, row) = getattr(self, name), self._list_types[name]
        return dim_zero_cat(parts) if len(parts) else torch.zeros(0, *row, dtype=dtype, device=self.device)

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        for name in self._list_types:
            setattr(self, name, [self._common_type(self.joined(name), dist_sync_fn, process_group)])
        super()._sync_dist(dist_sync_fn, process_group)

    def _common_type(self, mine: Tensor, gather: Callable[..., Any], group: Any | None) -> Tensor:
        """Widen float32 to float64 if any process holds float64."""
        if not mine.is_floating_point():
            return mine
        sizes = gather(torch.tensor(mine.element_size(), device=self.device), group=group or self.process_group)
        return mine.double() if max(int(size) for size in sizes) == 8 else mine


class ScoreAccumulator(ListMetric):
    """Collects scores of positives and negatives, optionally with regions, and gives their :class:`Counts`.

    Args:
        mode: ``"exact"`` keeps every score (4 bytes per negative, 12 per positive). ``"binned"`` keeps, per bin of
            scores, two counts, the region weight and the extreme scores: of fixed size, and it adds up.
        score_range: Range of the scores, for the bins; see :class:`ScoreBins`.
        bits: Binary logarithm of the number of bins; by default see :class:`~zsad.metrics.bins.ScoreBins`.
        regions: Whether region weights are kept.
        integer_weights: Hold the region weights of the binned mode as integers, which makes states independent of
            order, batches, devices and processes, bit by bit. Otherwise float64.
        **kwargs: Of ``torchmetrics.Metric``.

    Raises:
        ValueError: If mode, range or bits are out of bounds.
    """

    positive: list[Tensor]
    negative: list[Tensor]
    area: list[Tensor]
    low_score: Tensor
    high_score: Tensor
    n_pixel: Tensor
    n_positive: Tensor
    weight: Tensor
    n_regions: Tensor
    clamped: Tensor

    def __init__(
        self,
        mode: Mode = "binned",
        score_range: tuple[float, float] | None = None,
        bits: int | None = None,
        regions: bool = False,
        integer_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if mode not in ("exact", "binned"):
            raise ValueError(f"mode must be 'exact' or 'binned', got {mode!r}.")
        self.mode = mode
        self.bins = ScoreBins(None if score_range is None else (float(score_range[0]), float(score_range[1])), bits)
        self.regions = regions
        self.integer_weights = integer_weights
        self.add_state("n_regions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("clamped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        if mode == "exact":
            self.add_list("positive", torch.float32)
            self.add_list("negative", torch.float32)
            self.add_list("area", torch.int64)
        else:  # empty until the first update: torchmetrics keeps a copy of the default
            for name, reduce in (("n_positive", "sum"), ("n_pixel", "sum"), ("weight", "sum")):
                dtype = torch.float64 if name == "weight" and not integer_weights else torch.int64
                self.add_state(name, torch.zeros(0, dtype=dtype), dist_reduce_fx=reduce)
            self.add_state("low_score", torch.zeros(0), dist_reduce_fx="min")
            self.add_state("high_score", torch.zeros(0), dist_reduce_fx="max")

    def add(self, scores: Tensor, found: Regions) -> None:
        """Add the finite scores of one image (or of any number of single scores).

        Args:
            scores: Any shape.
            found: Flat positions of the positives, and the area of each one's region.
        """
        if scores.dtype != torch.float64 or self.mode == "binned":
            scores = scores.float()
        scores, pixel, area = (part.to(self.device).flatten() for part in (scores.detach(), found.pixel, found.area))
        with torch.inference_mode(False):  # states outlive an inference-mode run
            self.n_regions = self.n_regions + found.number
            if self.mode == "exact":
                self._keep(scores, pixel, area)
            else:
                self._bin(scores, pixel, area)

    def _keep(self, scores: Tensor, pixel: Tensor, area: Tensor) -> None:
        is_negative = torch.ones_like(scores, dtype=torch.bool)
        is_negative[pixel] = False
        self.positive.append(scores[pixel])
        self.negative.append(scores[is_negative])
        if self.regions:
            self.area.append(area)

    def _bin(self, scores: Tensor, pixel: Tensor, area: Tensor) -> None:
        self._allocate()
        one = self.n_pixel.new_ones(1)
        blocks: Sequence[Tensor] = [scores]
        if scores.device.type == "cpu":  # memory is what takes time: visit the bins in order, and stay in the cache
            blocks = torch.from_numpy(np.sort(scores.numpy())).split(BLOCK)
        for block in blocks:
            number = self.bins(block)
            self.n_pixel.scatter_add_(0, number, one.expand_as(number))
            self.low_score.scatter_reduce_(0, number, block, "amin")
            self.high_score.scatter_reduce_(0, number, block, "amax")
        self.clamped = self.clamped + self.bins.outside(scores)
        number = self.bins(scores[pixel])
        self.n_positive.scatter_add_(0, number, one.expand_as(number))
        if self.regions:
            weight = REGION_UNIT // area if self.integer_weights else area.double().reciprocal()
            self.weight.scatter_add_(0, number, weight.to(self.weight.dtype))

    def _allocate(self) -> None:
        if self.mode == "exact" or len(self.n_pixel):
            return
        size, device = len(self.bins), self.device
        self.n_positive = torch.zeros(size, dtype=torch.int64, device=device)
        self.n_pixel = torch.zeros(size, dtype=torch.int64, device=device)
        self.low_score = torch.full((size,), torch.inf, device=device)
        self.high_score = torch.full((size,), -torch.inf, device=device)
        if self.regions:
            self.weight = torch.zeros(size, dtype=self.weight.dtype, device=device)

    def counts(self) -> Counts:
        """Return the counts of what this process holds; inside ``sync_context()`` those of all processes."""
        if self.mode == "exact":
            area = self.joined("area") if self.regions else None
            return count_scores(self.joined("positive"), self.joined("negative"), area, int(self.n_regions))
        self._allocate()
        row = self.n_pixel.nonzero().flatten().flip(0)
        positive, total = self.n_positive[row].cumsum(0), self.n_pixel[row].cumsum(0)
        overlap, error, regions = None, 0.0, int(self.n_regions)
        if self.regions:
            overlap = self.weight[row].cumsum(0).double()
            if self.integer_weights:
                overlap = overlap / REGION_UNIT
                if regions > 2**19:
                    raise ValueError(
                        f"{regions} regions are more than integer region weights can hold ({2**19}): "
                        "use integer_weights=False."
                    )
                if regions:
                    error = float(positive[-1]) / REGION_UNIT / regions
        return Counts(
            self.low_score[row],
            self.high_score[row],
            positive.double(),
            (total - positive).double(),
            overlap,
            float(regions),
            error,
        )

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        self._allocate()
        super()._sync_dist(dist_sync_fn, process_group)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        self._allocate()
        if self.mode == "binned" and not len(incoming_state["n_pixel"]):  # the other side has seen nothing
            incoming_state = {
                **incoming_state,
                **{n: getattr(self, n).new_zeros(1) for n in ("n_positive", "n_pixel")},
            }
            incoming_state["low_score"] = self.low_score.new_full((1,), torch.inf)
            incoming_state["high_score"] = self.high_score.new_full((1,), -torch.inf)
            if self.regions:
                incoming_state["weight"] = self.weight.new_zeros(1)
        super()._reduce_states(incoming_state)

    def update(self, *_: Any, **__: Any) -> None:
        """Defined by the metrics."""
        raise NotImplementedError

    def compute(self) -> Any:
        """Defined by the metrics."""
        raise NotImplementedError


class ScoreMetric(ScoreAccumulator):
    """A metric of scores and labels of which a child gives the formulas of the value and of its bound.

    Args:
        mode: ``"binned"`` has a fixed memory and an error that :meth:`bound` reports; ``"exact"`` keeps all scores.
        score_range: Range of the scores, if it is known; makes the bins finer. Scores may be anything otherwise.
        bits: Binary logarithm of the number of bins; by default see :class:`~zsad.metrics.bins.ScoreBins`.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> from zsad.metrics import AUROC
        >>> metric = AUROC(mode="exact")
        >>> metric.update(torch.tensor([3.0, 1.0]), torch.tensor([1, 0]))
        >>> metric.update(torch.tensor([2.0, 2.0]), torch.tensor([1, 0]))
        >>> metric.compute().item()
        0.875
    """

    higher_is_better = True
    is_differentiable = False
    formula: "ClassVar[staticmethod[[Counts], Tensor]]"
    bound_formula: "ClassVar[staticmethod[[Counts], float]]"

    def __init__(
        self,
        mode: Mode = "binned",
        score_range: tuple[float, float] | None = None,
        bits: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(mode, score_range, bits, **kwargs)

    def value(self, counts: Counts) -> Tensor:
        """Return the metric, NaN where it is undefined."""
        return type(self).formula(counts)

    def error_bound(self, counts: Counts) -> float:
        """Return how far the value may be from the exact one; 0 in the exact mode."""
        return type(self).bound_formula(counts)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add scores with their labels.

        Args:
            scores: Finite numbers of any shape; larger means more anomalous. No sigmoid is applied.
            labels: Same shape; anomalous where ``> 0.5``.

        Raises:
            ValueError: If shapes differ or a score is not finite.
        """
        self.add(scores, labelled(scores, labels))

    def compute(self) -> Tensor:
        """Return the value over all processes, a float64 scalar in [0, 1]; NaN with a warning where undefined."""
        counts, name = self.counts(), type(self).__name__
        value = self.value(counts)
        if value.isnan():
            warn_undefined(name, why_undefined(counts, self.regions) or "this variant has no value for these scores")
        if self.mode == "binned":
            warn_clamped(int(self.clamped), self.bins.score_range)
            warn_wide(name, self.error_bound(counts))
        return value

    def bound(self) -> float:
        """Return how far the computed value may be from the exact one: over all processes, 0 in the exact mode."""
        with self.sync_context():
            return self.error_bound(self.counts())


def labelled(scores: Tensor, labels: Tensor) -> Regions:
    """Return the positions of the positives, after a check of shapes and numbers."""
    if scores.shape != labels.shape:
        raise ValueError(f"scores and labels must have one shape, got {tuple(scores.shape)} and {tuple(labels.shape)}.")
    check_finite([scores], "scores")
    pixel = (labels.flatten() > 0.5).nonzero().flatten()
    return Regions(pixel, pixel.new_ones(0), 0)
