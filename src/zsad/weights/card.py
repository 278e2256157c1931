"""The page that goes with published adapters: what they are, what they learned from, what they reach and what not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from zsad.weights.registry import data_terms

_METRICS = ("image_auroc", "image_ap", "pixel_auroc", "aupro")
_EMBEDDED = "Apache-2.0 (ships with zsad)"
_BACKBONE_LICENCE = {"openai": "MIT (OpenAI's CLIP)", "zsad-mini": _EMBEDDED, "zsad-mini-2": _EMBEDDED}


@dataclass(frozen=True)
class CardResult:
    """What a benchmark says of the adapters on one data set.

    Args:
        data: Its label.
        key: zsad's key of the data set.
        values: Metric -> mean over classes and seeds, in [0, 1].
        intervals: Metric -> bootstrap interval of a class's value, averaged over classes, where every cell has one.
        classes: Number of classes.
        seeds: Number of seeds.
        size: Side of the model's input.
    """

    data: str
    key: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    classes: int = 0
    seeds: int = 1
    size: int | None = None


def read_results(place: str | Path, method: str | None = None) -> list[CardResult]:
    """Return the results of a method in a folder of ``zsad benchmark``, or of one of its files.

    Args:
        place: The folder or a cell's JSON file.
        method: Registry name of the method, lower case; None for all.

    Raises:
        FileNotFoundError: There are none.
    """
    place = Path(place)
    paths = [place] if place.is_file() else sorted((place / "cells").glob("*/*/*.json"))
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        cell = json.loads(path.read_text(encoding="utf-8"))
        if "error" not in cell and (method is None or cell["method"]["name"] == method):
            groups.setdefault(cell["data"]["label"], []).append(cell)
    if not groups:
        of = "" if method is None else f" of '{method}'"
        raise FileNotFoundError(f"No results{of} below '{place}'; 'zsad benchmark --out {place}' writes them.")
    return [_result(label, cells) for label, cells in groups.items()]


def _result(label: str, cells: Sequence[Mapping[str, Any]]) -> CardResult:
    values, intervals = {}, {}
    for metric in _METRICS:
        found = [cell["metrics"][metric] for cell in cells if cell["metrics"].get(metric) is not None]
        if found:
            values[metric] = fmean(found)
        ends = [cell.get("intervals", {}).get(metric) for cell in cells]
        if ends and all(ends):
            intervals[metric] = (fmean(low for low, _ in ends), fmean(high for _, high in ends))
    return CardResult(
        label,
        str(cells[0]["data"].get("name", label)).lower(),
        values,
        intervals,
        len({cell["class"] for cell in cells}),
        len({cell["seed"] for cell in cells}),
        cells[0].get("protocol", {}).get("size"),
    )


def render(
    config: Mapping[str, Any],
    hashes: Mapping[str, str],
    results: Sequence[CardResult],
    licence: str | None,
    repository: str | None = None,
    command: str | None = None,
) -> str:
    """Return a model card: front matter that the Hub reads, and a page for people.

    Args:
        config: What ``config.json`` says.
        hashes: File name -> SHA-256.
        results: Of a benchmark; rows of data that the adapters learned from are left out.
        licence: Of the adapters, as the Hub spells it ("cc-by-4.0"); there is no default.
        repository: Owner and name on the Hub, for the lines that show how to use it.
        command: Command line that trains the same adapters again.
    """
    trained = {str(one.get("name")) for one in config["trained_on"]}
    forms = {_letters(name) for name in trained}
    fair = [one for one in results if not forms & {_letters(one.data), _letters(one.key)}]
    place = f"hub:{repository}" if repository else "FOLDER"
    parts = [
        f"---\n{_front_matter(config, fair, licence, repository)}\n---",
        f"# {config['method']} adapters" + (f", trained on {' and '.join(sorted(trained))}" if trained else ""),
        f"The learned part of {config['method']}, a zero-shot anomaly detector on a frozen CLIP, for the library zsad. "
        f"It scores images of things that it was not trained on, and marks where they are anomalous.",
        f'```python\nfrom zsad import load_model\nresult = load_model("{config["method"].lower()}", checkpoint='
        f'"{place}").predict("photo.png")\nresult.save("heat_map.png")\n```',
        "## Trained on\n\n" + "\n".join(_training(config)),
        "## Results\n\n" + _table(fair),
        "## Threshold\n\nNone is universal: scores rank images of one kind of product. Calibrate on normal images of "
        "yours before you label anything; cards that ship with these adapters are in `calibration/`.",
        f"## Backbone\n\n`{config['backbone']['name']}`, frozen and not part of these files; licence: "
        f"{_backbone_licence(config['backbone']['name'])}. Hash of the tower: `{config['backbone']['tower_key']}`.",
        "## Files\n\n" + "\n".join(f"- `{name}`: SHA-256 `{value}`" for name, value in hashes.items()),
        "## Again\n\n" + (f"```bash\n{command}\n```" if command else "The command line was not recorded."),
        "## Limits\n\nZero-shot detectors miss defects that only someone who knows the product can see: wrong counts, "
        "wrong parts in the right place, tolerances. Scores of different products do not compare. Do not use it for "
        "medical decisions.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(
    config: Mapping[str, Any], results: Sequence[CardResult], licence: str | None, repository: str | None
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    method = str(config["method"])
    found = [
        EvalResult(
            task_type="zero-shot-image-classification" if metric.startswith("image") else "image-segmentation",
            dataset_type=one.key,
            dataset_name=one.data,
            metric_type=metric,
            metric_value=round(value, 6),
        )
        for one in results
        for metric, value in one.values.items()
    ]
    names = [str(one["name"]) for one in config["trained_on"] if one.get("name")]
    data = ModelCardData(
        license=licence,
        library_name="zsad",
        base_model=config["backbone"].get("hub"),
        tags=["zsad", "anomaly-detection", "zero-shot", method.lower()],
        datasets=names or None,
        model_name=(repository or f"zsad-{method.lower()}").rpartition("/")[2] if found else None,
        eval_results=found or None,
    )
    text: str = data.to_yaml()
    return text.strip()


def _training(config: Mapping[str, Any]) -> list[str]:
    lines = []
    for one in config["trained_on"]:
        terms = data_terms(str(one.get("name", "")))
        facts = [f"{one[name]} {words}" for name, words in (("images", "images"), ("epochs", "epochs")) if name in one]
        facts += [f"split `{one['split']}`"] if one.get("split") else []
        facts += [f"classes {', '.join(one['classes'])}"] if one.get("classes") else []
        facts += [f"seed {config['options']['seed']}"] if "seed" in config["options"] else []
        verdict = {
            "no": "**These terms forbid commercial use of the data.**",
            "yes": "These terms permit commercial use of the data.",
            "ask": "**Whether these terms permit commercial use is not known to us: ask the owner.**",
        }[terms.commercial]
        lines.append(
            f"- {terms.title}: {', '.join(facts) or 'no details'}. Licence of the data: {terms.licence}. {verdict}"
        )
    return lines or ["- Not known."]


def _table(results: Sequence[CardResult]) -> str:
    if not results:
        return "**No benchmark result goes with these adapters**: nothing is known about how good they are."
    used = [metric for metric in _METRICS if any(metric in one.values for one in results)]
    lines = ["| data | " + " | ".join(used) + " | protocol |", "|---" * (len(used) + 2) + "|"]
    for one in results:
        cells = []
        for metric in used:
            ends = one.intervals.get(metric)
            value = one.values.get(metric)
            text = "-" if value is None else f"{100 * value:.1f}"
            cells.append(text if ends is None else f"{text} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})")
        protocol = f"{one.classes} classes, {one.seeds} seeds, {one.size} px"
        lines.append(f"| {one.data} | {' | '.join(cells)} | {protocol} |")
    lines.append("\nPer cent, mean over classes and seeds; in brackets the mean of the classes' bootstrap intervals.")
    return "\n".join(lines)


def _letters(name: str) -> str:
    """A data set goes by ``mvtec_ad`` and by ``MVTecAD``."""
    return name.lower().replace("_", "")


def _backbone_licence(name: str) -> str:
    tag = name.rpartition("/")[2]
    return _BACKBONE_LICENCE.get(tag, "see its own page")
