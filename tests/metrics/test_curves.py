"""Curves against scikit-learn, thinned without losing their area."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn import metrics as sk

from tests.metrics.scenes import feed, images, rates, scene
from zsad.metrics import Evaluator, aupro
from zsad.metrics.counts import count_scores
from zsad.metrics.curves import pr_curve, roc_curve


def test_curves_equal_scikit_learn() -> None:
    rng = np.random.RandomState(0)
    labels = rng.randint(0, 2, 200)
    scores = np.round(rng.randn(200) + labels, 1)
    counts = count_scores(torch.from_numpy(scores[labels == 1]), torch.from_numpy(scores[labels == 0]))
    fpr, tpr, threshold = sk.roc_curve(labels, scores, drop_intermediate=False)
    curve = roc_curve(counts)
    for mine, theirs in ((curve.x, fpr), (curve.y, tpr), (curve.threshold, threshold)):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    curve = pr_curve(counts)
    np.testing.assert_allclose(curve.x[1:], recall[-2::-1], atol=1e-12)
    np.testing.assert_allclose(curve.y[1:], precision[-2::-1], atol=1e-12)


def test_thinned_curves_keep_their_area_and_their_thresholds() -> None:
    maps, masks = scene(8, (40, 40))
    evaluator = Evaluator(score_range=(0, 1), curves=True)
    evaluator.update(["a"] * 8, maps.amax((1, 2)), masks.amax((1, 2)), maps, masks)
    curves = evaluator.compute().curves["a"]
    pro = curves["pro"]
    assert len(pro.x) <= 1000 < maps.numel()
    inside = pro.x <= 0.3
    area = np.trapezoid([*pro.y[inside], np.interp(0.3, pro.x, pro.y)], [*pro.x[inside], 0.3]) / 0.3
    assert area == pytest.approx(aupro(maps, masks).item(), abs=1e-3)
    for index in (5, 200, len(pro.x) - 1):
        expected = rates(maps, masks, 8, np.float32(pro.threshold[index]))
        assert (pro.x[index], pro.y[index]) == pytest.approx(expected, abs=1e-9)
    data = pro.to_dict()
    assert np.isfinite(data["threshold"]).all()
    assert data["x"][0] == data["y"][0] == 0


def test_figures_have_a_line_per_class() -> None:
    result = feed(Evaluator(curves=True), images())
    for kind in ("image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro"):
        figure = result.figure(kind)
        assert isinstance(figure, Figure)
        assert [line.get_label() for line in figure.axes[0].lines] == ["metal.nut", "pill", "zipper"]
    assert result.figure("pro").axes[0].get_ylabel() == "mean overlap of the regions"
    with pytest.raises(ValueError, match="There is no curve 'det': there are image_pr, image_roc"):
        result.figure("det")
    with pytest.raises(ValueError, match=r"none were collected; use Evaluator\(curves=True\)"):
        feed(Evaluator(), images()).figure("pro")
