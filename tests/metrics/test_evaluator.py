"""The evaluator against scikit-learn and the single metrics, and its answers to odd data."""

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.metrics.scenes import CLASSES, feed, images, scene
from zsad.metrics import (
    AUPRO,
    DEFAULT_METRICS,
    Evaluator,
    UndefinedMetricWarning,
    WideBoundWarning,
    aupro,
    f1_max,
)


def test_equals_scikit_learn_and_the_single_metrics() -> None:
    items = images()
    result = feed(Evaluator("exact", metrics=[*DEFAULT_METRICS, "aupro@0.05", "aupro_200step"]), items)
    assert list(result.per_class) == sorted(CLASSES)
    for name in CLASSES:
        _, scores, labels, maps, masks = zip(*(item for item in items if item[0] == name), strict=True)
        pixels, marked = torch.stack(maps), torch.stack(masks)
        flat, truth = pixels.flatten().numpy(), marked.flatten().numpy()
        expected = {
            "image_auroc": roc_auc_score(labels, scores),
            "image_ap": average_precision_score(labels, scores),
            "image_f1max": f1_max(torch.tensor(scores), torch.tensor(labels)).item(),
            "pixel_auroc": roc_auc_score(truth, flat),
            "pixel_ap": average_precision_score(truth, flat),
            "pixel_f1max": f1_max(pixels, marked).item(),
            "aupro": aupro(pixels, marked).item(),
            "aupro@0.05": aupro(pixels, marked, 0.05).item(),
            "aupro_200step": aupro(pixels, marked, variant="200step").item(),
        }
        assert result.per_class[name] == pytest.approx(expected, abs=1e-6)  # image scores came as float32
        assert result.counts[name] == (3, 3)
    for metric, value in result.mean.items():
        assert value == pytest.approx(np.mean([result.per_class[name][metric] for name in CLASSES]), abs=1e-12)
    assert result.bounds == {}
    assert result.pixel_bound == 0
    assert not any(result.left_out.values())


@pytest.mark.parametrize("score_range", [None, (0.0, 1.0)])
def test_binned_values_lie_in_their_bounds(score_range: tuple[float, float] | None) -> None:
    items = images()
    exact = feed(Evaluator("exact"), items)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WideBoundWarning)
        binned = feed(Evaluator(score_range=score_range, bits=14), items)
    assert 0 < binned.pixel_bound < 0.1
    for name, values in exact.per_class.items():
        assert set(binned.bounds[name]) == {m for m in values if not m.startswith("image_")}
        for metric, value in values.items():
            assert abs(binned.per_class[name][metric] - value) <= binned.bounds[name].get(metric, 0.0) + 1e-9


@pytest.mark.parametrize("mode", ["exact", "binned"])
def test_batches_order_and_finished_classes_do_not_matter(mode: Any) -> None:
    items = images()
    one, whole = feed(Evaluator(mode), items, 1), feed(Evaluator(mode), items[::-1], len(items))
    for name in CLASSES:
        assert one.per_class[name] == pytest.approx(whole.per_class[name], abs=1e-12)
    evaluator = Evaluator(mode)
    for name in CLASSES:
        feed(evaluator, [item for item in items if item[0] == name])
        evaluator.finish(name)
    finished = evaluator.compute()
    for name in CLASSES:
        assert finished.per_class[name] == pytest.approx(one.per_class[name], abs=1e-12)
    with pytest.raises(ValueError, match="Class 'pill' is finished; call reset"):
        feed(evaluator, [item for item in items if item[0] == "pill"])
    with pytest.raises(ValueError, match="Class 'cable' has not been evaluated"):
        evaluator.finish("cable")


def test_one_warning_per_class_names_class_and_metrics() -> None:
    items = [item if item[0] != "pill" else (*item[:2], 1, *item[3:]) for item in images()]
    with pytest.warns(UndefinedMetricWarning) as caught:
        result = feed(Evaluator("exact"), items)
    assert [str(w.message) for w in caught] == [
        "Class 'pill': image_auroc, image_ap, image_f1max is undefined (NaN): nothing is labelled normal."
    ]
    assert math.isnan(result.per_class["pill"]["image_auroc"])
    assert not math.isnan(result.per_class["pill"]["pixel_auroc"])
    assert result.left_out["image_auroc"] == ["pill"]
    assert result.left_out["aupro"] == []
    others = [result.per_class[name]["image_auroc"] for name in ("metal.nut", "zipper")]
    assert result.mean["image_auroc"] == pytest.approx(np.mean(others), abs=1e-12)


def test_mean_of_nothing_is_nan() -> None:
    with pytest.warns(UndefinedMetricWarning):
        result = feed(Evaluator(), [(*item[:2], 1, *item[3:]) for item in images()])
    assert math.isnan(result.mean["image_auroc"])
    assert result.to_dict()["mean"]["image_auroc"] is None


def test_metrics_without_their_data_are_absent() -> None:
    evaluator = Evaluator()
    evaluator.update(["a", "a"], torch.tensor([0.1, 0.9]), torch.tensor([0, 1]))
    result = evaluator.compute()
    assert result.per_class == {"a": {"image_auroc": 1.0, "image_ap": 1.0, "image_f1max": 1.0}}
    assert list(result.mean) == ["image_auroc", "image_ap", "image_f1max"]
    maps, masks = scene(2)
    evaluator.reset()
    evaluator.update(["b", "b"], maps.amax((1, 2)), None, maps, masks)
    result = evaluator.compute()
    assert set(result.per_class["b"]) == {"pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"}
    assert result.counts == {"b": (0, 0)}


def test_empty_evaluator_gives_an_empty_result() -> None:
    result = Evaluator().compute()
    assert result.per_class == {}
    assert result.mean == {}
    Evaluator().update([], torch.zeros(0), torch.zeros(0), torch.zeros(0, 4, 4), torch.zeros(0, 4, 4))


def test_thin_defect_that_vanished_from_the_mask_stays_anomalous() -> None:
    maps, masks = scene(4)
    evaluator = Evaluator("exact", metrics=["image_auroc", "aupro"])
    evaluator.update(["a"] * 4, torch.tensor([0.0, 1, 2, 3]), torch.tensor([1, 0, 1, 1]), maps, masks)
    result = evaluator.compute()
    assert result.counts["a"] == (1, 3)
    assert result.mean["image_auroc"] == pytest.approx(2 / 3)
    assert result.mean["aupro"] == pytest.approx(aupro(maps, masks).item())


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_scores_that_are_not_finite_name_the_images(bad: float) -> None:
    maps, masks = scene(3)
    paths = ["a/0.png", "a/1.png", "a/2.png"]
    broken = maps.clone()
    broken[1, 2, 3] = bad
    evaluator = Evaluator()
    with pytest.raises(ValueError, match=r"anomaly_map must be finite.*came with image a/1\.png\."):
        evaluator.update(["a"] * 3, torch.rand(3), torch.tensor([0, 1, 1]), broken, masks, paths)
    with pytest.raises(ValueError, match=r"pred_score must be finite.*image a/0\.png, a/2\.png\."):
        evaluator.update(["a"] * 3, torch.tensor([bad, 0, bad]), torch.tensor([0, 1, 1]), maps, masks, paths)
    with pytest.raises(ValueError, match="number 1 of this batch"):
        evaluator.update(["a"] * 3, torch.rand(3), torch.tensor([0, 1, 1]), broken, masks)
    assert evaluator.compute().per_class == {}  # a refused batch leaves nothing behind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ["pixel_dice"]}, "Unknown metric 'pixel_dice'; known are image_auroc.*aupro_200step"),
        ({"metrics": ["aupro@x"]}, "'aupro@x' must end in a number"),
        ({"metrics": ["aupro@2"]}, r"fpr_limit must lie in \(0, 1\], got 2.0"),
        ({"fpr_limit": 0}, r"fpr_limit must lie in \(0, 1\], got 0"),
        ({"connectivity": 1}, "got 1"),
        ({"bootstrap": -1}, "bootstrap must be >= 0"),
        ({"confidence": 95}, "confidence must lie between 0 and 1, got 95"),
        ({"mode": "auto"}, "'exact' or 'binned', got 'auto'"),
        ({"score_range": (1, 0)}, "the lower first"),
        ({"resize": "both"}, "'error', 'mask' or 'map', got 'both'"),
    ],
)
def test_options_out_of_bounds_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(**arguments)


def test_batches_that_do_not_fit_are_refused() -> None:
    maps, masks = scene(2)
    with pytest.raises(ValueError, match="Expected one gt_label per class name, got 3 for 2 names"):
        Evaluator().update(["a", "a"], torch.rand(2), torch.zeros(3))
    with pytest.raises(ValueError, match="Expected one anomaly_map per class name, got 2 for 1 names"):
        Evaluator().update(["a"], torch.rand(1), torch.zeros(1), maps, masks)


def test_lives_in_a_module_without_leaving_traces_in_checkpoints() -> None:
    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.evaluator = Evaluator()

    module = Module()
    with torch.inference_mode():  # as Trainer.test does
        feed(module.evaluator, images())
    before = module.evaluator.compute()
    assert module.state_dict() == {}
    module.to(torch.device("cpu")).half()  # converts parameters, never counts
    assert feed(module.evaluator, []).mean == before.mean
    feed(module.evaluator, images())  # an update outside inference mode continues the same state
    assert module.evaluator.compute().counts["pill"] == (6, 6)
    module.evaluator.reset()
    assert module.evaluator.compute().per_class == {}
    assert feed(module.evaluator, images()).mean == before.mean


def test_metric_classes_equal_the_evaluator() -> None:
    items = images()
    metric = AUPRO(score_range=(0, 1))
    for name, _, _, one, mask in items:
        if name == "pill":
            metric.update(one, mask)
    result = feed(Evaluator(score_range=(0, 1)), items)
    assert metric.compute().item() == result.per_class["pill"]["aupro"]


def test_result_becomes_json_and_a_table() -> None:
    with pytest.warns(UndefinedMetricWarning):
        result = feed(Evaluator(), [i if i[0] != "pill" else (*i[:2], 1, *i[3:]) for i in images()])
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["per_class"]["pill"]["image_auroc"] is None
    assert data["counts"]["pill"] == [0, 6]
    assert data["mean"]["aupro"] == result.mean["aupro"]
    table = result.table("Held out")
    assert table.title == "Held out"
    assert [column.header for column in table.columns][:4] == ["class", "images", "image AUROC", "image AP"]
    assert [column.header for column in table.columns][-2:] == ["pixel F1-max", "AUPRO"]
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == [*sorted(CLASSES), "mean"]
    assert cells[1] == ["3+3", "0+6", "3+3", "6+12"]
    assert cells[2][1] == "-"
    assert cells[-1][-1] == f"{100 * result.mean['aupro']:.1f}"
    assert table.caption is not None
    assert "image AUROC: 1" in str(table.caption)
