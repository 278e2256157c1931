"""Every method and two scores without any model on the same pictures: what the demo's table is made of."""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from zsad.cli.demo.product import digest
from zsad.cli.demo.shown import chosen
from zsad.clip import Clip
from zsad.clip.embedded import MINI
from zsad.images import to_tensor
from zsad.images.overlay import Limits
from zsad.inference.enlarging import enlarged
from zsad.methods import METHODS, AnoVL, Batch, Method, Prediction
from zsad.methods.evaluation import Evaluation
from zsad.methods.musc import Transductive
from zsad.metrics import EvaluationResult, Evaluator
from zsad.synthetic import SyntheticSample
from zsad.synthetic.trivial import centre_prior, colour_outlier

TRIVIAL = ("centre prior", "colour outlier")
"""Rows that need no model."""

CHOSEN: Mapping[str, Mapping[str, Any]] = {"AnoVL, adapted": {"lr": 1e-4}}
"""Row -> options other than the method's own: made for real backbones, they do not suit the embedded one.

They were chosen on classes and defects that it has seen, none of which is in the demo: ``docs/mini_clip.md``.
"""

_BATCH = 16

Scorer = Callable[[Sequence[SyntheticSample]], Prediction]
"""Pictures -> their maps and scores."""


@dataclass(frozen=True)
class Outcome:
    """What one row of the table comes from.

    Args:
        metrics: Per class and mean.
        maps: (images, height, width), in the order of the test set.
        scores: (images,).
        seconds: Wall time, text included.
        reasons: Number of a picture -> what a method that explains itself says of it.
    """

    metrics: EvaluationResult
    maps: NDArray[np.float32]
    scores: NDArray[np.float32]
    seconds: float
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def limits(self) -> Limits:
        """One colour scale for all pictures: the values between which all but the extreme pixels lie."""
        low, high = np.percentile(self.maps, [1, 99.9])
        return float(low), float(high)


def training_free() -> dict[str, type[Method]]:
    """Return the methods that learn nothing, by name."""
    return {name: kind for name, kind in METHODS.items() if kind.loss is Method.loss}


def rows_of(clip: Clip) -> dict[str, Method]:
    """Return what is compared: every method that learns nothing, and AnoVL's adaptation to each picture."""
    methods = {kind.__name__: kind(backbone=clip, **CHOSEN.get(kind.__name__, {})) for kind in training_free().values()}
    return methods | {"AnoVL, adapted": AnoVL(clip, adapter="text", **CHOSEN["AnoVL, adapted"])}


def chosen_options() -> str:
    """Return a sentence on the options that are not the methods' own."""
    said = [
        f"{name}: {option}={value:g} (its own: {inspect.signature(kind).parameters[option].default:g})"
        for name, options in CHOSEN.items()
        for kind in [METHODS[name.split(",")[0].lower()]]
        for option, value in options.items()
    ]
    return f"Chosen for {MINI}, on classes and defects that it has seen: {'; '.join(said)}."


def run(
    methods: Mapping[str, Method], samples: Sequence[SyntheticSample], tell: Callable[[str], object] = lambda name: None
) -> dict[str, Outcome]:
    """Return the outcome of every method, then of the two trivial scores, on the same pictures.

    Args:
        methods: Name of the row -> method.
        samples: The test pictures.
        tell: Called with the name of each row before it is computed.
    """
    scorers: dict[str, Scorer] = {name: partial(score, method.eval()) for name, method in methods.items()}
    scorers |= dict(zip(TRIVIAL, (by_place, by_colour), strict=True))
    outcomes = {}
    for name, scorer in scorers.items():
        tell(name)
        if isinstance(method := methods.get(name), Transductive):
            _draw_panels(method, samples)
        outcomes[name] = evaluate(samples, scorer)
        if hasattr(methods.get(name), "explain"):
            outcomes[name] = replace(outcomes[name], reasons=_reasons(methods[name], samples))
    return outcomes


def _draw_panels(method: Transductive, samples: Sequence[SyntheticSample]) -> None:
    """Let a method see all pictures of each class before it scores one."""
    for class_name in sorted({sample.class_name for sample in samples}):
        here = [sample for sample in samples if sample.class_name == class_name]
        pictures = [to_tensor(Image.fromarray(sample.image), method.protocol) for sample in here]
        method.draw_from(class_name, [digest(sample) for sample in here], pictures.__getitem__)


def _reasons(method: Any, samples: Sequence[SyntheticSample]) -> dict[int, str]:
    """Return the descriptor that fits each of the shown pictures best."""
    found = {}
    for number in chosen(samples):
        picture = to_tensor(Image.fromarray(samples[number].image), method.protocol)[None]
        with torch.inference_mode():
            best = method.explain(picture.to(method.clip.logit_scale.device), [samples[number].class_name], top_k=1)
        found[number] = best[0][0].descriptor
    return found


def evaluate(samples: Sequence[SyntheticSample], scorer: Scorer) -> Outcome:
    """Return what one scorer makes of the pictures."""
    start = time.perf_counter()
    evaluation = Evaluation(Evaluator(mode="exact"))
    maps = []
    for first in range(0, len(samples), _BATCH):
        part = samples[first : first + _BATCH]
        prediction = scorer(part)
        batch: Batch = {
            "image": torch.from_numpy(np.stack([sample.image for sample in part])),
            "class_name": [sample.class_name for sample in part],
            "image_path": [str(first + place) for place in range(len(part))],
            "gt_label": torch.tensor([int(bool(sample.defect)) for sample in part]),
            "gt_mask": torch.from_numpy(np.stack([sample.mask for sample in part])),
        }
        evaluation.add(batch, prediction)
        maps.append(prediction.anomaly_map)
    metrics = evaluation.compute()
    scores = np.array([image.pred_score for image in evaluation.images], np.float32)
    return Outcome(metrics, torch.cat(maps).numpy(), scores, time.perf_counter() - start)


def score(method: Method, samples: Sequence[SyntheticSample]) -> Prediction:
    """Return a method's maps, at the pictures' own size, and scores."""
    device = method.clip.logit_scale.device
    pictures = [to_tensor(Image.fromarray(sample.image), method.protocol) for sample in samples]
    with torch.inference_mode():
        names = [sample.class_name for sample in samples]
        paths = list(map(digest, samples)) if method.transductive else None
        prediction = method(torch.stack(pictures).to(device), names, paths)
    # the pictures' own size: a method may see them larger
    maps = [enlarged(one, samples[0].mask.shape) for one in prediction.anomaly_map.float().cpu().numpy()]
    return Prediction(torch.from_numpy(np.stack(maps)), prediction.pred_score.float().cpu())


def by_place(samples: Sequence[SyntheticSample]) -> Prediction:
    """Return maps that are bright in the middle; such a prior says nothing of an image as a whole."""
    prior = torch.from_numpy(centre_prior(*samples[0].mask.shape))
    return Prediction(prior.expand(len(samples), -1, -1), torch.zeros(len(samples)))


def by_colour(samples: Sequence[SyntheticSample]) -> Prediction:
    """Return the distance of each pixel's colour to the mean colour of its picture."""
    maps, scores = zip(*(colour_outlier(sample.image) for sample in samples), strict=True)
    return Prediction(torch.from_numpy(np.stack(maps)), torch.tensor(scores))
