"""Means, comparison and the published list, against numbers worked out apart."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from zsad.benchmark.published import lookup, published
from zsad.benchmark.report import write_report
from zsad.benchmark.results import compare, summarise
from zsad.benchmark.tables import as_csv
from zsad.metrics import Evaluator


def cell(
    method: str, class_name: str, seed: int, value: float | None, images: list[Any] | None = None
) -> dict[str, Any]:
    """A cell of the shape that the runner writes."""
    return {
        "method": {"label": method, "name": "clip"},
        "data": {"label": "d"},
        "class": class_name,
        "seed": seed,
        "metrics": {"image_auroc": value},
        "bounds": {},
        "images": images or [],
        "images_per_s": 2.0,
        "peak_memory_mb": 10.0,
        "backbone": {"name": "b"},
        "trained": None,
    }


def test_mean_over_classes_then_seeds() -> None:
    cells = [cell("m", "a", 0, 0.5), cell("m", "b", 0, 0.7), cell("m", "a", 1, 0.9), cell("m", "b", 1, None)]
    one = summarise(cells)[0]
    assert one.values["image_auroc"] == pytest.approx([0.6, 0.9])
    assert one.mean("image_auroc") == pytest.approx(0.75)
    assert one.std("image_auroc") == pytest.approx(np.std([0.6, 0.9], ddof=1))
    assert one.per_class == {"a": {"image_auroc": pytest.approx(0.7)}, "b": {"image_auroc": pytest.approx(0.7)}}


def test_intervals_of_the_mean_are_those_of_one_evaluation_of_all_classes() -> None:
    names, generator = ["a", "b", "c"], torch.Generator().manual_seed(0)
    data = {}
    for number, name in enumerate(names):
        labels = torch.arange(60) % 2
        data[name] = (labels * (0.5 + 0.5 * number) + torch.randn(60, generator=generator), labels)
    together = Evaluator("exact", metrics=["image_auroc"], bootstrap=3000)
    cells = []
    for name, (scores, labels) in data.items():
        together.update([name] * 60, scores, labels)
        alone = Evaluator("exact", metrics=["image_auroc"], bootstrap=3000)
        alone.update([name] * 60, scores, labels)
        found = alone.compute()
        for seed in (0, 1):  # a second seed on the same images adds no certainty
            made = cell("m", name, seed, found.per_class[name]["image_auroc"])
            cells.append({**made, "intervals": found.intervals[name]})
    expected = together.compute().mean_intervals["image_auroc"]
    got = summarise(cells)[0].intervals["image_auroc"]
    assert got == pytest.approx(expected, abs=0.07 * (expected[1] - expected[0]))
    del cells[0]["intervals"]
    assert summarise(cells)[0].intervals == {}


def test_paired_comparison() -> None:
    rng = np.random.RandomState(0)
    labels = rng.randint(0, 2, 60)
    good, bad = labels + 0.3 * rng.randn(60), labels + 3 * rng.randn(60)
    cells = [
        cell(name, "a", 0, 0.5, [[str(i), int(labels[i]), float(scores[i])] for i in range(60)])
        for name, scores in (("good", good), ("bad", bad), ("same", good + 1))
    ]
    found = compare(cells, "d", "good", "bad", 200)
    assert found.difference == pytest.approx(roc_auc_score(labels, good) - roc_auc_score(labels, bad), abs=1e-12)
    assert found.low < found.difference < found.high
    assert found.clear
    same = compare(cells, "d", "good", "same", 50)
    assert (same.low, same.difference, same.high) == (0, 0, 0)
    assert not same.clear
    with pytest.raises(ValueError, match="have no class of d in common"):
        compare(cells, "d", "good", "absent")


def test_every_published_number_has_its_place() -> None:
    for one in published():
        assert one.paper
        assert one.table
        assert one.kind in ("paper", "log", "rerun")
        assert one.metric
        if one.metric.startswith(("image_a", "pixel", "aupro")) and one.metric != "images_per_second":
            assert 0 <= one.value <= 100
    assert len(published()) > 1500


@pytest.mark.parametrize(
    ("data", "method", "metric", "value", "table"),
    [
        # spot values read off the papers' tables by hand
        ("mvtec_ad", "anomalyclip", "pixel_auroc", 91.1, "1"),
        ("visa", "anomalyclip", "aupro_200step", 87.0, "1"),
        ("covid19", "anomalyclip", "image_ap", 58.7, "2"),
        ("tn3k", "anomalyclip", "pixel_auroc", 81.5, "2"),
        ("mvtec_ad", "anovl", "pixel_auroc", 86.6, "1"),
        ("visa", "alfa", "image_auroc", 81.2, "1"),
        ("mvtec_ad", "alfa", "pixel_f1max", 36.6, "1"),
        ("visa", "musc", "pixel_ap", 45.1, "README, paper"),
    ],
)
def test_spot_values(data: str, method: str, metric: str, value: float, table: str) -> None:
    found = lookup(data, method, metric)
    assert (found[0].value, found[0].table) == (value, table)


def test_own_paper_comes_first_and_details_stay_out() -> None:
    assert lookup("mvtec_ad", "winclip", "image_auroc")[-1].copied
    assert {one.value for one in lookup("mvtec_ad", "aaclip", "pixel_auroc", ("log", "rerun"))} == {91.88, 91.4}
    assert all(not one.detail for one in lookup("visa", "anomalyclip", "pixel_auroc"))


def test_no_cell_of_a_report_is_a_formula_and_numbers_stay_numbers(tmp_path: Path) -> None:
    images = [["a", 0, 0.1], ["b", 1, -0.2], ["c", 1, 0.3]]
    made = cell("+cmd|'/C calc'!A0", "@SUM(A1)", 0, 0.5, images)
    made |= {"data": {"label": "=1+1"}, "defects": ["", "-1", "\r=1"], "file": "x"}
    for text in (as_csv(summarise([made])), _curves_of(made, tmp_path)):
        rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
        assert rows
        for row in rows:
            assert row[0] == "'=1+1"
            numbers = [one for one in row if one[:1] == "-"]
            assert all(float(one) <= 0 for one in numbers)
            assert not [one for one in row if one[:1] in set("=+@\t\r")]


def _curves_of(made: dict[str, Any], folder: Path) -> str:
    (folder / "cells" / "m" / "d").mkdir(parents=True)
    (folder / "cells" / "m" / "d" / "x-s0.json").write_text(json.dumps(made), encoding="utf-8")
    write_report(folder, curves=True, resamples=10)
    with (folder / "report_curves.csv").open(encoding="utf-8", newline="") as file:
        return file.read()
