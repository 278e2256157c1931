"""All metrics of a benchmark in one pass: per class, then the mean over the classes."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zsad.metrics.accumulator import ScoreAccumulator
from zsad.metrics.bootstrap import ImageTables, interval, resample
from zsad.metrics.counts import Counts
from zsad.metrics.curves import Curve, pr_curve, pro_curve, roc_curve
from zsad.metrics.names import DEFAULT_METRICS, named_metric
from zsad.metrics.notices import RepeatedImageWarning, warn_clamped, warn_undefined, warn_wide, why_undefined
from zsad.metrics.pairs import Resize, as_pairs, check_finite
from zsad.metrics.regions import Connectivity, Regions, check_connectivity, find_regions
from zsad.metrics.result import EvaluationResult, mean_of


@dataclass
class ClassReport:
    """What is known of one class once its states are no longer needed."""

    values: dict[str, float] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    counts: tuple[int, int] = (0, 0)
    resampled: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)


class ClassState(nn.Module):
    """The states of one class: image scores, pixel scores, tables for resampling."""

    def __init__(self, images: ScoreAccumulator, pixels: ScoreAccumulator, tables: ImageTables | None) -> None:
        super().__init__()
        self.images = images
        self.pixels = pixels
        self.tables = tables


class Evaluator(nn.Module):
    """Collects predictions over batches and processes and computes every metric per class and in the mean.

    Moves with ``.to(device)`` as part of a module, synchronises across processes by class name (processes may see
    different classes in different orders) and holds no learned state. Shard the data without padding: an image that
    two processes see counts twice, which is warned of where paths are given.

    Args:
        mode: ``"binned"``: one pass, fixed memory per class, error bounds beside the values; ``"exact"`` keeps all
            pixel scores. Image scores are always kept, their metrics are exact.
        score_range: Lowest and highest possible pixel score, if known; makes the bins finer.
        metrics: Names, see :func:`named_metric`.
        fpr_limit: Greatest false-positive rate of AUPRO.
        connectivity: 8 if diagonal neighbours belong to one region, 4 if they do not.
        bootstrap: Number of resampled sets of images for confidence intervals; 0 for none. Costs some 100 kB of
            memory per image.
        confidence: Share of the resampled values inside an interval.
        seed: Seed of the resampling.
        curves: Whether to keep ROC, precision-recall and overlap curves in the result.
        bits: Binary logarithm of the number of bins; by default 20 (33 MB per class), and 19 with a range.
        integer_weights: Hold region weights as integers, so that binned states are the same bit by bit whatever the
            order, the device and the number of processes.
        resize: What to do where a mask and its map differ in size: ``"error"``, or resize the ``"mask"`` or ``"map"``.

    Raises:
        ValueError: If an option is unknown or out of bounds.

    Example:
        >>> evaluator = Evaluator(mode="exact", metrics=["image_auroc", "aupro"])
        >>> maps = torch.tensor([[[0.1, 0.2], [0.3, 0.9]], [[0.1, 0.0], [0.2, 0.1]]])
        >>> masks = torch.tensor([[[0, 0], [0, 1]], [[0, 0], [0, 0]]])
        >>> evaluator.update(["screw", "screw"], maps.amax((1, 2)), torch.tensor([1, 0]), maps, masks)
        >>> evaluator.compute().mean
        {'image_auroc': 1.0, 'aupro': 1.0}
    """

    def __init__(
        self,
        mode: Literal["exact", "binned"] = "binned",
        score_range: tuple[float, float] | None = None,
        metrics: Sequence[str] = DEFAULT_METRICS,
        fpr_limit: float = 0.3,
        connectivity: Connectivity = 8,
        bootstrap: int = 0,
        confidence: float = 0.95,
        seed: int = 0,
        curves: bool = False,
        bits: int | None = None,
        integer_weights: bool = True,
        resize: Resize = "error",
    ) -> None:
        super().__init__()
        check_connectivity(connectivity)
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
        if bootstrap < 0:
            raise ValueError(f"bootstrap must be >= 0 resampled sets, got {bootstrap}.")
        if resize not in ("error", "mask", "map"):
            raise ValueError(f"resize must be 'error', 'mask' or 'map', got {resize!r}.")
        ScoreAccumulator(mode, score_range, bits)  # refuses bad options now, not at the first batch
        self.mode = mode
        self.score_range = score_range
        self.metrics = {name: named_metric(name, fpr_limit) for name in metrics}
        self.connectivity = connectivity
        self.bootstrap = bootstrap
        self.confidence = confidence
        self.seed = seed
        self.curves = curves
        self.bits = bits
        self.integer_weights = integer_weights
        self.resize: Resize = resize
        self._states = nn.ModuleList()
        self._places: dict[str, int] = {}
        self._reports: dict[str, ClassReport] = {}
        self._paths: set[bytes] = set()

    def reset(self) -> None:
        """Forget everything collected so far and release its memory."""
        self._states = nn.ModuleList()
        self._places.clear()
        self._reports.clear()
        self._paths.clear()

    def update(
        self,
        class_names: Sequence[str],
        pred_score: Tensor,
        gt_label: Tensor | None,
        anomaly_map: Tensor | Sequence[Tensor] | None = None,
        gt_mask: Tensor | Sequence[Tensor] | None = None,
        image_path: Sequence[str] | None = None,
    ) -> None:
        """Add a batch of whole images.

        Regions are labelled on the host before anything waits for the scores: masks that are still on the host are
        labelled while the device computes the maps.

        Args:
            class_names: Class of each image, (batch,).
            pred_score: Image scores, (batch,); larger means more anomalous.
            gt_label: 1 anomalous, 0 normal, (batch,); None if unknown, then there are no image metrics.
            anomaly_map: Pixel scores, (batch, height, width), (batch, 1, height, width) or one (height, width) tensor
                per image; None for image metrics only.
            gt_mask: Masks of the maps' sizes, defect where ``> 0.5``; None for image metrics only.
            image_path: Path of each image, for messages and to notice repeated images.

        Raises:
            ValueError: If shapes do not fit, a score is not finite (the message names the images) or a class is
                already finished.
        """
        size = len(class_names)
        pred_score = pred_score.detach().flatten()
        given = (("pred_score", pred_score), ("gt_label", gt_label), ("image_path", image_path))
        for what, values in given:
            if values is not None and len(values) != size:
                raise ValueError(f"Expected one {what} per class name, got {len(values)} for {size} names.")
        for name in class_names:
            if name in self._reports:
                raise ValueError(f"Class '{name}' is finished; call reset() before evaluating it again.")
        pairs: list[tuple[Tensor, Tensor]] = []
        found: list[Regions] = []
        if anomaly_map is not None and gt_mask is not None:
            pairs = as_pairs(anomaly_map, gt_mask, self.resize)
            if len(pairs) != size:
                raise ValueError(f"Expected one anomaly_map per class name, got {len(pairs)} for {size} names.")
            found = [find_regions(mask, self.connectivity) for _, mask in pairs]
        planes = [scores.detach() for scores, _ in pairs]
        check_finite(planes, "anomaly_map", image_path)
        check_finite(list(pred_score), "pred_score", image_path)
        if image_path is not None:
            self._paths.update(hashlib.blake2b(str(path).encode(), digest_size=8).digest() for path in image_path)

        scores = pred_score.double().cpu()
        labels: list[bool | None] = [None] * size if gt_label is None else (gt_label.flatten() > 0.5).tolist()
        for index, name in enumerate(class_names):
            state = self._state(name, planes[index].device if planes else pred_score.device)
            label = labels[index]
            if label is not None:
                state.images.add(scores[index : index + 1], _single(label))
            if planes:
                state.pixels.add(planes[index], found[index])
            if state.tables is not None:
                number = float("nan") if label is None else float(label)
                pixels = (planes[index], found[index]) if planes else (None, None)
                state.tables.update(float(scores[index]), number, *pixels)

    def finish(self, class_name: str) -> None:
        """Compute a class now and release its states; with several processes, each must call this in the same order.

        Worth it in the exact mode with data that comes class by class.

        Raises:
            ValueError: If the class is unknown here and there is only one process.
        """
        if class_name not in self._places and not _several():
            raise ValueError(f"Class '{class_name}' has not been evaluated; known are {', '.join(self._places)}.")
        self._reports[class_name] = self._report(class_name)
        place = self._places.pop(class_name)
        self._states[place] = nn.Identity()

    def compute(self) -> EvaluationResult:
        """Return all metrics over all processes; every process gets the same result and collection may go on.

        Warns, once per class, of undefined metrics, of bounds above 1e-3 and of scores outside the declared range.
        """
        names = self._all_names()
        reports = {name: self._reports.get(name) or self._report(name) for name in names}
        per_class = {name: report.values for name, report in reports.items()}
        metrics = [m for m in self.metrics if any(m in values for values in per_class.values())]
        mean = {metric: mean_of(per_class, metric) for metric in metrics}
        left_out = {
            m: [name for name, values in per_class.items() if values.get(m, 0.0) != values.get(m, 0.0)] for m in metrics
        }
        return EvaluationResult(
            per_class=per_class,
            mean=mean,
            left_out=left_out,
            counts={name: report.counts for name, report in reports.items()},
            bounds={name: report.bounds for name, report in reports.items() if report.bounds},
            intervals=self._intervals(reports),
            mean_intervals=self._mean_intervals(reports, mean),
            curves={name: report.curves for name, report in reports.items() if report.curves},
        )

    # ---- one class

    def _state(self, name: str, device: torch.device) -> ClassState:
        if name not in self._places:
            with torch.inference_mode(False):  # states outlive an inference-mode run
                images = ScoreAccumulator("exact")
                pixels = ScoreAccumulator(
                    self.mode, self.score_range, self.bits, regions=True, integer_weights=self.integer_weights
                )
                tables = ImageTables(self.score_range) if self.bootstrap else None
                self._places[name] = len(self._states)
                self._states.append(ClassState(images, pixels, tables).to(device))
        state = self._states[self._places[name]]
        assert isinstance(state, ClassState)
        return state

    def _report(self, name: str) -> ClassReport:
        """Compute one class over all processes."""
        state = self._state(name, self._device())
        with state.images.sync_context(), state.pixels.sync_context():
            levels = {"image": state.images.counts(), "pixel": state.pixels.counts()}
            clamped = int(state.pixels.clamped)
        report = ClassReport(counts=(int(levels["image"].negatives), int(levels["image"].positives)))
        reasons: dict[str, list[str]] = {}
        for metric, how in self.metrics.items():
            counts = levels[how.level]
            if not len(counts.lowest):
                continue  # no labels, or no masks
            value = float(how.value(counts))
            report.values[metric] = value
            if value != value:
                reason = why_undefined(counts, how.needs_regions) or "it has no value for these scores"
                reasons.setdefault(reason, []).append(metric)
            if self.mode == "binned" and how.level == "pixel" and how.bound is not None:
                report.bounds[metric] = how.bound(counts)
        self._warn(name, report, reasons, clamped)
        if self.curves:
            report.curves = _curves(levels["image"], levels["pixel"])
        if state.tables is not None:
            with state.tables.sync_context():
                functions = {
                    level: {m: self.metrics[m].value for m in report.values if self.metrics[m].level == level}
                    for level in ("image", "pixel")
                }
                report.resampled = resample(
                    state.tables, functions["image"], functions["pixel"], self.bootstrap, self.seed
                )
        return report

    def _warn(self, name: str, report: ClassReport, reasons: dict[str, list[str]], clamped: int) -> None:
        if reasons:
            text = "; ".join(f"{', '.join(metrics)}: {reason}" for reason, metrics in reasons.items())
            metrics = ", ".join(metric for found in reasons.values() for metric in found)
            warn_undefined(
                f"Class '{name}': {metrics}", text if len(reasons) > 1 else next(iter(reasons)), stacklevel=5
            )
        warn_clamped(clamped, self.score_range, f" of class '{name}'", stacklevel=5)
        if report.bounds:
            widest = max(report.bounds, key=report.bounds.__getitem__)
            warn_wide(f"Class '{name}': {widest}", report.bounds[widest], stacklevel=5)

    # ---- all classes

    def _all_names(self) -> list[str]:
        """Names of the classes that any process has seen, sorted; warns of images that several processes have seen."""
        mine = [*self._places, *self._reports]
        if not _several():
            return sorted(mine)
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, (mine, self._paths))
        distinct = len(set().union(*(paths for _, paths in gathered)))
        repeated = sum(len(paths) for _, paths in gathered) - distinct
        if repeated:
            warnings.warn(
                f"{repeated} images were evaluated by more than one process and count more than once: use a sampler "
                "that does not pad the data.",
                RepeatedImageWarning,
                stacklevel=3,
            )
        return sorted({name for names, _ in gathered for name in names})

    def _device(self) -> torch.device:
        """Where a class that this process has not seen takes part in the exchange."""
        if _several() and dist.get_backend() == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def _intervals(self, reports: dict[str, ClassReport]) -> dict[str, dict[str, tuple[float, float]]]:
        return {
            name: {m: interval(report.values[m], values, self.confidence) for m, values in report.resampled.items()}
            for name, report in reports.items()
            if report.resampled
        }

    def _mean_intervals(
        self, reports: dict[str, ClassReport], mean: dict[str, float]
    ) -> dict[str, tuple[float, float]]:
        found = {}
        for metric, value in mean.items():
            defined = [
                r.resampled[metric]
                for r in reports.values()
                if metric in r.resampled and r.values[metric] == r.values[metric]
            ]
            if defined:
                found[metric] = interval(value, torch.stack(defined).mean(0), self.confidence)
        return found


def _single(anomalous: bool) -> Regions:
    """The positions of the positives among one image score."""
    pixel = torch.zeros(int(anomalous), dtype=torch.int64)
    return Regions(pixel, pixel, 0)


def _curves(image: Counts, pixel: Counts) -> dict[str, Curve]:
    curves = {}
    for level, counts in (("image", image), ("pixel", pixel)):
        if counts.positives and counts.negatives:
            curves[f"{level}_roc"], curves[f"{level}_pr"] = roc_curve(counts), pr_curve(counts)
    if pixel.regions and pixel.negatives:
        curves["pro"] = pro_curve(pixel)
    return curves


def _several() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
