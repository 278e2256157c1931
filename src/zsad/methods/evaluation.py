"""One evaluation of predictions, the same for the Trainer, the benchmark and the demo."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from zsad.metrics import EvaluationResult, Evaluator
from zsad.types import Batch, Prediction

ClassRule = Callable[[Tensor, Tensor, float, float], Tensor]
"""Image scores (n,) and map maxima (n,) of a class, smallest and greatest maximum of all its images -> new scores."""


class ScoredImage(NamedTuple):
    """What an evaluation keeps of an image: no map."""

    image_path: str
    class_name: str
    gt_label: int
    pred_score: float
    map_max: float = float("nan")
    """Known where a rule needs it."""
    map_min: float = float("nan")


class Evaluation:
    """Feeds an evaluator, batch by batch, and keeps each image's score.

    Some papers replace the image scores when the whole test set of a class is known (VAND's few-shot scores, AA-CLIP's
    fusion). With such a rule the evaluator gets the pixels at once and the image scores at the end.

    Args:
        evaluator: Gets every prediction.
        rule: Replaces the image scores of each class; None keeps them.
        by_maxima: Whether the rule's extremes are those of the maps' maxima, else those of all pixels.
    """

    def __init__(self, evaluator: Evaluator, rule: ClassRule | None = None, by_maxima: bool = True) -> None:
        self.evaluator = evaluator
        self.rule = rule
        self.by_maxima = by_maxima
        self.images: list[ScoredImage] = []
        """In the order in which this process saw them; scores are final after :meth:`compute`."""
        self._final = 0

    def add(self, batch: Batch, prediction: Prediction) -> None:
        """Add a batch.

        Raises:
            ValueError: The images have no labels.
        """
        if "gt_label" not in batch:
            raise ValueError(
                f"Evaluation needs labels, but none are known for {batch['image_path'][0]}; use predict or score."
            )
        maps = prediction.anomaly_map.float()
        pred_score = prediction.pred_score.float()
        self.evaluator.update(
            batch["class_name"],
            pred_score,
            None if self.rule is not None else batch["gt_label"],
            maps if "gt_mask" in batch else None,
            batch.get("gt_mask"),
            batch["image_path"],
        )
        known = [pred_score]
        if self.rule is not None:
            known += [maps.amax(dim=(1, 2)), maps.amin(dim=(1, 2))]
        values = torch.stack(known).double().tolist()
        columns = batch["image_path"], batch["class_name"], batch["gt_label"].tolist(), *values
        self.images += [ScoredImage(*row) for row in zip(*columns, strict=True)]

    def compute(self) -> EvaluationResult:
        """Return all metrics over all processes; every process must call it."""
        if self.rule is not None:  # also without an image of its own: the other processes wait for this one
            self._replace(self.rule, self.images[self._final :])
        self._final = len(self.images)
        return self.evaluator.compute()

    def reset(self) -> None:
        """Forget everything collected so far."""
        self.evaluator.reset()
        self.images.clear()
        self._final = 0

    def _replace(self, rule: ClassRule, mine: list[ScoredImage]) -> None:
        parts: list[list[ScoredImage]] = [mine]
        rank = 0
        if dist.is_available() and dist.is_initialized():
            parts, rank = [[]] * dist.get_world_size(), dist.get_rank()
            dist.all_gather_object(parts, mine)
        own = {
            class_name: [place for place, image in enumerate(mine) if image.class_name == class_name]
            for class_name in {image.class_name for image in mine}
        }
        for class_name, places in sorted(own.items()):
            images = [[image for image in part if image.class_name == class_name] for part in parts]
            everyone = [image for part in images for image in part]
            highest = max(image.map_max for image in everyone)
            lowest = min(image.map_max if self.by_maxima else image.map_min for image in everyone)
            given, maxima = (
                torch.tensor([getattr(image, what) for image in everyone]) for what in ("pred_score", "map_max")
            )
            before = sum(map(len, images[:rank]))
            scores = rule(given, maxima, lowest, highest)[before : before + len(places)]
            labels = torch.tensor([mine[place].gt_label for place in places])
            self.evaluator.update([class_name] * len(places), scores, labels)
            for place, score in zip(places, scores.tolist(), strict=True):
                self.images[self._final + place] = mine[place]._replace(pred_score=score)
