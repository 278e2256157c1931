"""``zsad demo``: every training-free method on generated pictures, one table, heat maps and one page to look at."""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from zsad.clip import Clip, load_clip
from zsad.clip.loading import MINI
from zsad.functional.maps import upsample
from zsad.images import to_tensor
from zsad.images.overlay import Limits, outline, overlay
from zsad.inference import find_device
from zsad.methods import METHODS, AnoVL, Method
from zsad.methods.evaluation import Evaluation
from zsad.methods.musc import Transductive
from zsad.metrics import EvaluationResult, Evaluator
from zsad.report import page
from zsad.report.terminal import tables
from zsad.synthetic import SyntheticSample, split_samples
from zsad.synthetic.trivial import centre_prior, colour_outlier
from zsad.types import Batch, Prediction

NOTE = (
    "synthetic, mini CLIP: generated pictures, and a small model trained on pictures of the same generator. "
    "It shows that the machinery works; it says nothing about real images and does not rank the methods."
)
_METRICS = {
    "image AUROC": "image_auroc",
    "image AP": "image_ap",
    "image F1-max": "image_f1max",
    "pixel AUROC": "pixel_auroc",
    "pixel AP": "pixel_ap",
    "AUPRO": "aupro",
}
_TRIVIAL = ("centre prior", "colour outlier")
_SHOWN_NORMAL = 4

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


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="zsad demo",
        description="Run all training-free methods with the embedded mini CLIP on a generated benchmark of classes and "
        "defects that it never saw; write heat maps and one HTML page.",
        epilog=NOTE,
    )
    parser.add_argument("--out", type=Path, default=Path("zsad-demo"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="test pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other pictures (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="'auto', 'cpu', 'cuda:0', 'mps' (default: %(default)s)")
    parser.add_argument("--train", action="store_true", help="train the methods that learn as well; takes minutes")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object, not as tables")
    args = parser.parse_args(arguments)
    console = Console(stderr=args.json)
    start = time.perf_counter()
    console.print(f"[bold]{NOTE}[/bold]")
    device = find_device(args.device)
    clip = load_clip(MINI).to(device)
    samples = split_samples("held-out both", args.images, args.seed)
    methods = {kind.__name__: kind(backbone=clip).to(device) for kind in training_free().values()}
    methods["AnoVL, adapted"] = AnoVL(clip, adapter="text").to(device)
    if args.train:
        methods |= {name: model.to(device) for name, model in train(clip, args.out, args.seed, console).items()}
    with console.status("") as status:
        outcomes = run(methods, samples, lambda name: status.update(f"running {name}"))
        status.update("writing pictures")
        target = write(args.out, outcomes, samples)
    if args.json:
        print(json.dumps({"note": NOTE, "page": str(target), "methods": plain(outcomes)}))
    else:
        show(outcomes, console)
    console.print(f"{args.images} pictures, {time.perf_counter() - start:.0f} s. Look at it: {target}", soft_wrap=True)
    return 0


def training_free() -> dict[str, type[Method]]:
    """Return the methods that learn nothing, by name."""
    return {name: kind for name, kind in METHODS.items() if kind.loss is Method.loss}


def train(
    clip: Clip, folder: Path, seed: int, console: Console, images: int = 400, epochs: int | None = 5
) -> dict[str, Method]:
    """Return the methods that learn, trained on generated pictures of classes and defects that zsad-mini has seen.

    Args:
        clip: The backbone.
        folder: Gets the weights files, and the cached image features.
        seed: Of the pictures and of the training.
        console: Gets a line per method.
        images: Training pictures.
        epochs: Passes over them; None takes each method's published number.
    """
    from zsad.benchmark.grid import DataSpec, MethodSpec
    from zsad.benchmark.train import trained

    data = DataSpec("synthetic", "Synthetic", {"train_images": images, "seed": seed})
    options = {"accelerator": clip.logit_scale.device.type, "devices": 1, "enable_progress_bar": True}
    free, methods = training_free(), {}
    for name, kind in METHODS.items():
        if name not in free:
            spec = MethodSpec(name, name, {"cache_dir": str(folder / "cache")})
            model, weights = trained(spec, data, seed, clip, folder, epochs, options)
            methods[f"{kind.__name__}, trained"] = model
            console.print(f"{kind.__name__}: trained on {images} pictures; weights in {weights}", soft_wrap=True)
    console.print("No gain is expected here: zsad-mini was trained against prompts written by hand.")
    return methods


def run(
    methods: Mapping[str, Method], samples: Sequence[SyntheticSample], tell: Callable[[str], object] = lambda name: None
) -> dict[str, Outcome]:
    """Return the outcome of every method, then of the two trivial scores, on the same pictures.

    Args:
        methods: Name of the row -> method.
        samples: The test pictures.
        tell: Called with the name of each row before it is computed.
    """
    scorers: dict[str, Scorer] = {name: partial(_method, method.eval()) for name, method in methods.items()}
    scorers |= dict(zip(_TRIVIAL, (_centre_prior, _colour_outlier), strict=True))
    outcomes = {}
    for name, scorer in scorers.items():
        tell(name)
        if isinstance(method := methods.get(name), Transductive):
            _draw_panels(method, samples)
        outcomes[name] = _evaluate(samples, scorer)
        if hasattr(methods.get(name), "explain"):
            outcomes[name] = replace(outcomes[name], reasons=_reasons(methods[name], samples))
    return outcomes


def _draw_panels(method: Transductive, samples: Sequence[SyntheticSample]) -> None:
    """Let a method see all pictures of each class before it scores one."""
    for class_name in sorted({sample.class_name for sample in samples}):
        here = [sample for sample in samples if sample.class_name == class_name]
        pictures = [to_tensor(Image.fromarray(sample.image), method.protocol) for sample in here]
        method.draw_from(class_name, [_name(sample) for sample in here], pictures.__getitem__)


def _name(sample: SyntheticSample) -> str:
    """A name of a picture, in the place of a file's."""
    return f"{hashlib.sha256(sample.image.tobytes()).hexdigest()}.png"


def _reasons(method: Any, samples: Sequence[SyntheticSample]) -> dict[int, str]:
    """Return the descriptor that fits each of the shown pictures best."""
    found = {}
    for number in chosen(samples):
        picture = to_tensor(Image.fromarray(samples[number].image), method.protocol)[None]
        with torch.inference_mode():
            best = method.explain(picture.to(method.clip.logit_scale.device), [samples[number].class_name], top_k=1)
        found[number] = best[0][0].descriptor
    return found


def _evaluate(samples: Sequence[SyntheticSample], scorer: Scorer) -> Outcome:
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


def _method(method: Method, samples: Sequence[SyntheticSample]) -> Prediction:
    device = method.clip.logit_scale.device
    pictures = [to_tensor(Image.fromarray(sample.image), method.protocol) for sample in samples]
    with torch.inference_mode():
        names = [sample.class_name for sample in samples]
        paths = list(map(_name, samples)) if method.transductive else None
        prediction = method(torch.stack(pictures).to(device), names, paths)
    # the pictures' own size: a method may see them larger
    maps = upsample(prediction.anomaly_map.float().cpu(), samples[0].mask.shape)
    return Prediction(maps, prediction.pred_score.float().cpu())


def _centre_prior(samples: Sequence[SyntheticSample]) -> Prediction:
    prior = torch.from_numpy(centre_prior(*samples[0].mask.shape))
    return Prediction(prior.expand(len(samples), -1, -1), torch.zeros(len(samples)))


def _colour_outlier(samples: Sequence[SyntheticSample]) -> Prediction:
    maps, scores = zip(*(colour_outlier(sample.image) for sample in samples), strict=True)
    return Prediction(torch.from_numpy(np.stack(maps)), torch.tensor(scores))


def mean_rows(outcomes: Mapping[str, Outcome]) -> list[list[str | float | None]]:
    """Return one row per outcome: its name, the metrics in per cent, the seconds; the mean over classes."""
    rows: list[list[str | float | None]] = []
    for name, outcome in outcomes.items():
        values = [_percent(outcome.metrics.mean, key, name) for key in _METRICS.values()]
        rows.append([name, *values, outcome.seconds])
    return rows


def class_rows(outcomes: Mapping[str, Outcome], metric: str) -> list[list[str | float | None]]:
    """Return one row per class: its name, then one metric in per cent for each outcome; the last row is the mean."""
    classes = sorted({name for outcome in outcomes.values() for name in outcome.metrics.per_class})
    rows: list[list[str | float | None]] = []
    for class_name in classes:
        cells = [_percent(one.metrics.per_class.get(class_name, {}), metric, name) for name, one in outcomes.items()]
        rows.append([class_name, *cells])
    rows.append(["mean", *(_percent(one.metrics.mean, metric, name) for name, one in outcomes.items())])
    return rows


def below_trivial(outcomes: Mapping[str, Outcome]) -> str:
    """Return a sentence on the methods whose mean AUROC a score without any model beats, "" if there is none."""
    phrases = []
    for metric in ("image_auroc", "pixel_auroc"):
        values = {name: _percent(one.metrics.mean, metric, name) or 0.0 for name, one in outcomes.items()}
        best = max(values[name] for name in _TRIVIAL)
        beaten = [f"{name} ({value:.1f})" for name, value in values.items() if name not in _TRIVIAL and value < best]
        if beaten:
            phrases.append(f"{_title(metric)} {best:.1f}: {', '.join(beaten)}")
    return f"Not better here than a score without any model, {'; '.join(phrases)}." if phrases else ""


def _title(metric: str) -> str:
    return metric.replace("_", " ").replace("auroc", "AUROC")


def _percent(values: Mapping[str, float], metric: str, name: str) -> float | None:
    if name == _TRIVIAL[0] and metric.startswith("image"):  # the centre prior says nothing of an image as a whole
        return None
    value = values.get(metric)
    return None if value is None else 100 * float(value)


def plain(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return name of a row -> its metrics in [0, 1] and its seconds, ready for JSON."""
    return {name: one.metrics.to_dict() | {"seconds": one.seconds} for name, one in outcomes.items()}


def show(outcomes: Mapping[str, Outcome], console: Console) -> None:
    """Print the table of means and the two tables of classes."""
    _print(console, "mean over classes, per cent (synthetic, mini CLIP)", ["", *_METRICS, "s"], mean_rows(outcomes))
    for metric in ("image_auroc", "pixel_auroc"):
        title = f"{_title(metric)} per class, per cent (synthetic, mini CLIP)"
        _print(console, title, ["class", *outcomes], class_rows(outcomes, metric))
    if sentence := below_trivial(outcomes):
        console.print(f"[yellow]{sentence}[/yellow]")


def _print(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
    """Print a table whole: columns that find no room go into a further table, with the first column again."""
    texts = [[_text(cell) for cell in row] for row in rows]
    styles = ["dim" if row[0] in _TRIVIAL else "" for row in rows]
    numbers = range(1, len(columns))
    for table in tables(columns, texts, console.width, title, further=True, right=numbers, styles=styles):
        console.print(table)


def _text(cell: str | float | None) -> str:
    if cell is None or cell != cell:  # NaN: undefined
        return "-"
    return cell if isinstance(cell, str) else f"{cell:.1f}"


def chosen(samples: Sequence[SyntheticSample]) -> list[int]:
    """Return which pictures are shown: the first defective one of each class, then the first normal ones."""
    first: dict[tuple[str, bool], int] = {}
    for number, sample in enumerate(samples):
        first.setdefault((sample.class_name, bool(sample.defect)), number)
    defective = [number for (_, damaged), number in first.items() if damaged]
    return sorted(defective) + sorted(number for (_, damaged), number in first.items() if not damaged)[:_SHOWN_NORMAL]


def write(folder: Path, outcomes: Mapping[str, Outcome], samples: Sequence[SyntheticSample]) -> Path:
    """Write heat maps and ``index.html`` below the folder, and return the page's path.

    Args:
        folder: Made if it does not exist.
        outcomes: One per row.
        samples: The test pictures, in their order.
    """
    parts = [page.paragraph(NOTE, "note"), page.heading("Mean over classes")]
    aside = [number for number, name in enumerate(outcomes) if name in _TRIVIAL]
    caption = "Per cent; a click on a column's head sorts. Rows in italics need no model: a method below does not work."
    parts.append(page.table(["", *_METRICS, "seconds"], mean_rows(outcomes), caption, aside))
    if sentence := below_trivial(outcomes):
        parts.append(page.paragraph(sentence, "note"))
    for metric in ("image_auroc", "pixel_auroc"):
        parts.append(page.heading(f"{_title(metric)} per class"))
        parts.append(page.table(["class", *outcomes], class_rows(outcomes, metric), "Per cent"))
    parts.append(page.heading("Pictures"))
    parts.append(
        page.paragraph(
            "The first defective picture of each class and the first normal ones, not chosen by result. Green: where "
            "the defect is. A method has one colour scale for all pictures: compare its colours, not those of two.",
            "quiet",
        )
    )
    for number in chosen(samples):
        parts.append(page.pictures(_figures(folder, number, samples[number], outcomes)))
    target = folder / "index.html"
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(page.page("zsad demo", parts), encoding="utf-8")
    return target


def _figures(
    folder: Path, number: int, sample: SyntheticSample, outcomes: Mapping[str, Outcome], enlarge: int = 2
) -> Iterator[str]:
    """Yield the picture and its heat maps as HTML, and save them as files."""
    what = f"{sample.class_name}, {sample.defect or 'normal'}"
    size = (enlarge * sample.image.shape[1], enlarge * sample.image.shape[0])
    image = Image.fromarray(sample.image).resize(size, Image.Resampling.BICUBIC)
    mask = np.asarray(Image.fromarray(sample.mask).resize(size, Image.Resampling.NEAREST))
    yield page.picture(_save(outline(image, mask), folder, "image", number, sample), what)
    for name, outcome in outcomes.items():
        if name != _TRIVIAL[0]:  # the same for every picture
            heat = overlay(image, outcome.maps[number], outcome.limits)
            reason = f", “{outcome.reasons[number]}”" if number in outcome.reasons else ""
            caption = f"{name}: {outcome.scores[number]:.3f}{reason}"
            yield page.picture(_save(heat, folder, name, number, sample), caption)


def _save(image: Image.Image, folder: Path, name: str, number: int, sample: SyntheticSample) -> Image.Image:
    kind = sample.defect or "normal"
    path = folder / "heatmaps" / name.replace(" ", "_") / f"{number:03d}_{sample.class_name}_{kind}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return image
