"""The six steps: calibrate, judge, show where, look at a large photo, compare within the folder, ship."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from zsad.cli.demo.product import CLASS, Product
from zsad.cli.demo.story import Step
from zsad.decision import Card
from zsad.decision.evaluation import held_out_rate
from zsad.images.overlay import outline
from zsad.inference.rows import Row
from zsad.report import page

ALPHA = 0.05
_SHOWN = 6
_MAP = 288
_FOUND = (230, 40, 40)


def steps(product: Product, backbone: str, device: str) -> list[Step]:
    """Return the story of a product."""
    model = ["--backbone", backbone, "--class-name", CLASS, "--device", device]
    card, results, compared = (str(product.folder / name) for name in (f"{CLASS}.card.json", "results", "compared"))
    regions, shipped, at_the_line = (str(product.folder / name) for name in ("regions.json", "shipped", "at-the-line"))
    whole, tiled = (str(product.folder / name) for name in ("photo-whole", "photo-tiles"))
    photo = ["zsad", "score", str(product.photo), "--method", "clip", *model, "--maps", "npy", "--map-size", str(_MAP)]
    return [
        Step(
            "Calibrate on good parts",
            f"{len(product.calibration)} pictures of good parts, no defective one: the card says from which score on a "
            f"part is unusual, so that at most {100 * ALPHA:g} % of good parts alarm, on average over calibrations.",
            [["zsad", "calibrate", str(product.good), "--out", card, "--method", "clip", *model, "--alpha", str(ALPHA),
              "--regions", "--fresh"]],
            lambda: _calibrated(product, Path(card)),
        ),
        Step(
            "Judge new parts",
            f"{len(product.truth)} other pictures, some with defects of kinds that the model never saw. The card fills "
            "in the model.",
            [["zsad", "score", str(product.new), "--calibration", card, "--out", results, "--device", device,
              "--fresh"]],
            lambda: _judged(product, Path(card), Path(results)),
        ),
        Step(
            "Show where",
            "Regions above the card's threshold of maps, here for an annotation tool; mask pictures, CVAT and Label "
            "Studio are other formats.",
            [["zsad", "export-regions", results, "--format", "coco", "--out", regions]],
            lambda: _located(product, Path(results), Path(regions)),
        ),
        Step(
            "Find small defects in a large photo",
            f"{product.marked.shape[1]} x {product.marked.shape[0]} pixels, of which the model sees 96 x 96: first the "
            "whole photo at once, then in tiles of the size that it was made for.",
            [[*photo, "--out", whole, "--fresh"], [*photo, "--tile", "96", "--out", tiled, "--fresh"]],
            lambda: _tiled(product, Path(whole), Path(tiled)),
        ),
        Step(
            "Compare within the folder",
            "MuSc needs no good parts: a patch is unusual if the other pictures of the folder have none like it. Its "
            "scores depend on the folder.",
            [["zsad", "score", str(product.new), "--method", "musc", *model, "--out", compared, "--fresh"]],
            lambda: _compared(product, Path(results), Path(compared)),
        ),
        Step(
            "Ship it",
            "The model and its card as a folder that scores without torch and without zsad, on the computer at the "
            "line. Writing it, zsad compares it with the model; here it scores the same parts again.",
            [["zsad", "export", "--out", shipped, "--calibration", card],
             ["python", f"{shipped}/run.py", str(product.new), "--out", at_the_line, "--fresh"]],
            lambda: _shipped(Path(results), Path(at_the_line)),
            needs="zsad[onnx]",
            modules=["onnx", "onnxscript", "onnxruntime"],
        ),
    ]  # fmt: skip


def rows(folder: Path) -> dict[str, Row]:
    """Return the rows of a run by file name."""
    with (folder / "scores.jsonl").open(encoding="utf-8") as file:
        return {Path(row.path).name: row for row in map(Row.read, file)}


def _calibrated(product: Product, card: Path) -> list[str]:
    from zsad.cli.calibration_report import promise_of

    entry = Card.load(card).entry(CLASS)
    shown = product.calibration[:_SHOWN]
    return [
        page.paragraph(f"{promise_of(entry)}."),
        page.pictures(page.picture(_large(Image.open(path)), path.name) for path in shown),
    ]


def _judged(product: Product, card: Path, results: Path) -> list[str]:
    entry, found = Card.load(card).entry(CLASS), rows(results)
    normal = set(product.normal())
    scores = [float(row.score or 0) for name, row in found.items() if name in normal]
    rate = held_out_rate(entry.calibration, entry.k, scores, entry.threshold)
    kinds = sorted({sample.defect for sample in product.truth.values()} - {""})
    table: list[list[str | float | None]] = []
    for kind in kinds:
        labels = [found[name].label or 0 for name, sample in product.truth.items() if sample.defect == kind]
        table.append([kind, float(len(labels)), 100 * float(np.mean(labels))])
    alarms = [name for name, row in found.items() if row.label == 1]
    text = (
        f"Asked: at most {100 * ALPHA:g} % false alarms; promised by the card: "
        f"{100 * (entry.k or 0) / (entry.calibration.n + 1):.2g} %; measured: {rate.alarms} of {rate.m} good parts, "
        f"{100 * rate.rate:.2g} % (95 % interval {100 * rate.low:.2g} to {100 * rate.high:.2g} %). One calibration on "
        f"{entry.calibration.n} parts may lie above or below; the promise is about the average of many."
    )
    return [
        page.paragraph(text, "note"),
        page.table(["defect", "parts", "found %"], table, "Defects of kinds that the model never saw"),
        page.pictures(_figure(results, name, found[name], product) for name in alarms[:_SHOWN]),
    ]


def _figure(results: Path, name: str, row: Row, product: Product) -> str:
    truth = product.truth[name].defect or "good"
    caption = f"{name}: {row.score:.3f}, p = {row.p_value:.2g}, {'alarm' if row.label else 'no alarm'}; it is {truth}"
    return page.picture(_large(Image.open(results / str(row.overlay))), caption)


def _located(product: Product, results: Path, regions: Path) -> list[str]:
    content: dict[str, Any] = json.loads(regions.read_text(encoding="utf-8"))
    found = rows(results)
    chosen = [name for name, sample in product.truth.items() if sample.defect and found[name].n_regions][:_SHOWN]
    figures = []
    for name in chosen:
        sample, row = product.truth[name], found[name]
        picture = outline(_large(Image.fromarray(sample.image)), _sharp(sample.mask))
        pen = ImageDraw.Draw(picture)
        for region in row.regions or []:
            for ring in region["rings"]:
                pen.polygon([(3 * x, 3 * y) for x, y in ring], outline=_FOUND, width=2)
        figures.append(page.picture(picture, f"{name}, {sample.defect}: {row.n_regions} region(s)"))
    with_regions = {one["image_id"] for one in content["annotations"]}
    text = (
        f"{len(content['annotations'])} regions in {len(with_regions)} pictures. "
        "Red: what was found; green: where the defect is."
    )
    return [page.paragraph(text), page.pictures(figures)]


def _tiled(product: Product, whole: Path, tiled: Path) -> list[str]:
    side = product.marked.shape[0] // _MAP
    marked = product.marked.reshape(_MAP, side, _MAP, side).any(axis=(1, 3))
    figures = [page.picture(outline(_large(Image.open(product.photo), 576), _sharp(product.marked, 576)), "the photo")]
    table: list[list[str | float | None]] = []
    for name, folder in (("the whole photo", whole), ("in tiles", tiled)):
        row = rows(folder)[product.photo.name]
        heat = np.load(folder / str(row.map))
        table.append(
            [name, float((row.tiles or {"n": 1})["n"]), 100 * float(roc_auc_score(marked.ravel(), heat.ravel()))]
        )
        figures.append(page.picture(_large(Image.open(folder / str(row.overlay)), 576), name))
    return [
        page.table(["", "passes", "pixel AUROC"], table, "Per cent, on this photo; each pass is one look of the model"),
        page.paragraph("Green: where the defects are."),
        page.pictures(figures),
    ]


def _compared(product: Product, results: Path, compared: Path) -> list[str]:
    labels = [bool(sample.defect) for sample in product.truth.values()]
    table: list[list[str | float | None]] = []
    for name, folder in (("CLIP, one picture at a time", results), ("MuSc, the folder together", compared)):
        found = rows(folder)
        scores = [float(found[one].score or 0) for one in product.truth]
        table.append([name, 100 * float(roc_auc_score(labels, scores))])
    found = rows(compared)
    highest = sorted(found, key=lambda one: -float(found[one].score or 0))[:_SHOWN]
    figures = [
        page.picture(
            _large(Image.open(compared / str(found[name].overlay))),
            f"{name}: {found[name].score:.3f}; it is {product.truth[name].defect or 'good'}",
        )
        for name in highest
    ]
    return [
        page.table(["", "image AUROC"], table, "Per cent, on this folder"),
        page.paragraph(f"The {_SHOWN} highest scores of MuSc:"),
        page.pictures(figures),
    ]


def _shipped(results: Path, at_the_line: Path) -> list[str]:
    here, there = rows(results), rows(at_the_line)
    gap = max(abs(float(here[name].score or 0) - float(there[name].score or 0)) for name in here)
    other = sum(here[name].label != there[name].label for name in here)
    text = (
        f"{len(there)} parts scored without torch: the greatest difference to step 2 is {gap:.1e}, {other} part(s) are "
        "judged otherwise."
    )
    return [page.paragraph(text, "note")]


def _large(picture: Image.Image, side: int = 288) -> Image.Image:
    """Return a picture at the size it has on the page."""
    return picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def _sharp(mask: NDArray[np.bool_], side: int = 288) -> NDArray[np.bool_]:
    """Return a mask at that size."""
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))


__all__: Sequence[str] = ["rows", "steps"]
