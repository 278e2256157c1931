"""The part of the demo's page that compares the methods: tables, and heat maps of a few pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zsad.cli.demo.scoring import CHOSEN, TRIVIAL, Outcome, chosen_options
from zsad.cli.demo.shown import chosen
from zsad.cli.demo.tables import METRICS, below_trivial, class_rows, mean_rows, title
from zsad.images.overlay import outline, overlay
from zsad.report import page
from zsad.synthetic import SyntheticSample


def parts(folder: Path, outcomes: Mapping[str, Outcome], samples: Sequence[SyntheticSample]) -> list[str]:
    """Write heat maps below the folder, and return the part of the page that compares the methods.

    Args:
        folder: Made if it does not exist.
        outcomes: One per row.
        samples: The test pictures, in their order.
    """
    made = [
        page.heading("All methods"),
        page.paragraph(
            f"{len(samples)} pictures of {len({one.class_name for one in samples})} classes that the model "
            "never saw, with defects of kinds that it never saw."
        ),
    ]
    aside = [number for number, name in enumerate(outcomes) if name in TRIVIAL]
    caption = "Per cent; a click on a column's head sorts. Rows in italics need no model: a method below does not work."
    made.append(page.table(["", *METRICS, "seconds"], mean_rows(outcomes), caption, aside))
    if sentence := below_trivial(outcomes):
        made.append(page.paragraph(sentence, "note"))
    if CHOSEN.keys() <= outcomes.keys():
        made.append(page.paragraph(chosen_options(), "quiet"))
    for metric in ("image_auroc", "pixel_auroc"):
        made.append(page.heading(f"{title(metric)} per class"))
        made.append(page.table(["class", *outcomes], class_rows(outcomes, metric), "Per cent"))
    made.append(page.heading("Pictures"))
    made.append(
        page.paragraph(
            "The first defective picture of each class and the first normal ones, not chosen by result. Green: where "
            "the defect is. A method has one colour scale for all pictures: compare its colours, not those of two.",
            "quiet",
        )
    )
    for number in chosen(samples):
        made.append(page.pictures(_figures(folder, number, samples[number], outcomes)))
    return made


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
        if name != TRIVIAL[0]:  # the same for every picture
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
