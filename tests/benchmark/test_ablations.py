"""Rows of the papers' tables: each can be built, predicts, and, where it learns, has a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import make_clip
from zsad.benchmark.grid import MethodSpec
from zsad.cli.main import main
from zsad.clip import Clip
from zsad.methods import AnoVL
from zsad.types import Batch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "ablations"
FILES = sorted(FOLDER.glob("*.yaml"))
SPECS = [(path.stem, spec) for path in FILES for spec in MethodSpec.parse_all(str(path))]
ROWS = {  # as many as the papers print
    "aaclip_figure10": 21, "aaclip_table6": 7, "aaclip_table7": 11, "alfa_table2": 5, "alfa_table3": 3,
    "alfa_table4": 3, "alfa_table6": 6, "anomalyclip_table4": 5, "anomalyclip_table5": 4, "anomalyclip_table7": 5,
    "anomalyclip_table9": 2, "anomalyclip_table10": 4, "anomalyclip_table11": 4, "anomalyclip_table13": 5,
    "anovl_table3": 4, "anovl_table4": 3, "anovl_table5": 2, "anovl_tables1_2": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def deep() -> Clip:
    return make_clip(layers=24)


def batch(size: int = 32) -> Batch:
    mask = torch.zeros(2, size, size, dtype=torch.bool)
    mask[1, 4:12, 6:20] = True
    return {
        "image": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)),
        "class_name": ["nut", "pcb_1"],
        "image_path": ["a", "b"],
        "gt_label": torch.tensor([0, 1]),
        "gt_mask": mask,
    }


def test_every_row_of_the_papers_is_there() -> None:
    assert {path.stem: len(MethodSpec.parse_all(str(path))) for path in FILES} == ROWS
    labels = [(stem, spec.label) for stem, spec in SPECS]
    assert len(set(labels)) == len(labels)


@pytest.mark.filterwarnings("ignore::zsad.methods.trained.UntrainedWarning")
@pytest.mark.parametrize(("table", "spec"), SPECS, ids=[f"{stem}-{spec.label}" for stem, spec in SPECS])
def test_rows_can_be_built(table: str, spec: MethodSpec, deep: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    options: dict[str, Any] = dict(spec.options)
    if "text_adapters" in options:  # the tiny text tower has two blocks
        options["text_adapters"] = min(options["text_adapters"], deep.text_depth)
    model = spec.kind(deep, **options, **spec.evaluation)
    if isinstance(options.get("llm"), dict):
        return  # its sentences come from a service
    data = batch()
    if options.get("shots"):
        for name in data["class_name"]:
            model.fit_references(name, data["image"])
    prediction = model.eval()(data["image"], data["class_name"], data["image_path"])
    assert prediction.anomaly_map.shape == (2, 32, 32)
    assert torch.isfinite(prediction.pred_score).all()
    if hasattr(spec.kind, "training_stages") and spec.epochs != 0 and not spec.evaluation:
        model.loss(data)["loss"].backward()
    if isinstance(model, AnoVL) and model.adapter != "none" and options.get("variant") != "paper":
        assert model.optimizer_state == "carry"  # what stands behind the published numbers


def test_rows_that_differ_in_evaluation_share_their_training(tmp_path: Path) -> None:
    rows = tmp_path / "words.yaml"
    rows.write_text(
        "method: aaclip\nrows:\n- {label: one, evaluation: {templates: ['{}.']}}\n"
        "- {label: two, evaluation: {templates: ['a photo of {}.']}}\n- {label: none, options: {gamma: 0}}\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    arguments = ["--data", "Synthetic:images=40,classes=[cork]", "--train", "Synthetic:train_images=4", "--epochs", "1"]
    arguments += ["--backbone", "zsad-mini", "--device", "cpu", "--out", str(out)]
    assert main(["benchmark", "--methods", str(rows), *arguments]) == 0
    finished = [path.stem for path in (out / "weights").glob("*.safetensors") if "stage" not in path.stem]
    assert len(finished) == 2  # of "one" and "two" together, and of "none"
    cells = sorted(path.parent.parent.name for path in (out / "cells").rglob("*.json"))
    assert {name.split("-")[0] for name in cells} == {"none", "one", "two"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: clip\nrows: [{label: a, options: {sigmaa: 1}}]", "CLIP has no options"),
        ("method: clip\nrows: [{label: a, colour: red}]", "a row has the keys"),
        ("method: clip\nrows: [{options: {sigma: 1}}]", "always a label"),
        ("method: clip\nnote: x\nrows: []", "must have the keys 'method' and 'rows'"),
    ],
)
def test_wrong_rows_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        MethodSpec.parse_all(str(path))
