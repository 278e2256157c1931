"""Intervals against resampling by hand, and their independence of order."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.metrics.scenes import feed, images, scene
from zsad.metrics import Evaluator, aupro


def test_intervals_equal_resampling_of_whole_maps() -> None:
    maps, masks = scene(30, (8, 8), seed=3)
    scores, labels = maps.amax((1, 2)), (masks.amax((1, 2)) > 0).int()
    labels[:10], masks[:10] = 0, 0
    evaluator = Evaluator("exact", score_range=(0, 1), bootstrap=200, confidence=0.9)
    evaluator.update(["a"] * 30, scores, labels, maps, masks)
    result = evaluator.compute()
    rng = np.random.RandomState(0)
    by_hand: dict[str, list[float]] = {"image_auroc": [], "pixel_auroc": [], "aupro": []}
    for _ in range(200):
        draw = rng.randint(0, 30, 30)
        by_hand["image_auroc"].append(roc_auc_score(labels[draw], scores[draw]))
        by_hand["pixel_auroc"].append(roc_auc_score(masks[draw].flatten(), maps[draw].flatten()))
        by_hand["aupro"].append(aupro(maps[draw], masks[draw]).item())
    for metric, values in by_hand.items():
        expected = np.quantile(values, [0.05, 0.95])
        assert result.intervals["a"][metric] == pytest.approx(expected, abs=0.25 * (expected[1] - expected[0]))


@pytest.mark.parametrize("mode", ["exact", "binned"])
def test_order_and_batches_do_not_matter(mode: str) -> None:
    items = images()
    results = [
        feed(Evaluator(mode, bootstrap=50), chosen, batch)  # type: ignore[arg-type]
        for chosen, batch in ((items, 4), (items[::-1], 1))
    ]
    for name, expected in results[0].intervals.items():
        for metric, ends in expected.items():
            assert results[1].intervals[name][metric] == pytest.approx(ends, abs=1e-9)
            assert 0 <= ends[0] <= results[0].per_class[name][metric] + 0.2
            assert ends[0] <= ends[1] <= 1
    assert set(results[0].mean_intervals) == set(results[0].mean)
    assert "-" in str(next(iter(results[0].table().columns[2].cells)))


def test_undefined_metrics_have_no_interval_and_classes_without_masks_none_for_pixels() -> None:
    evaluator = Evaluator(bootstrap=20)
    evaluator.update(["a"] * 4, torch.rand(4), torch.tensor([0, 1, 0, 1]))
    assert set(evaluator.compute().intervals["a"]) == {"image_auroc", "image_ap", "image_f1max"}
    evaluator.reset()
    evaluator.update(["a"] * 4, torch.rand(4), torch.ones(4))
    with pytest.warns(UserWarning, match="nothing is labelled normal"):
        result = evaluator.compute()
    assert all(np.isnan(end) for end in result.intervals["a"]["image_auroc"])
    assert result.mean_intervals == {} or all(np.isnan(e) for e in result.mean_intervals["image_auroc"])


def test_many_bins_are_joined_without_moving_the_interval() -> None:
    rng = torch.Generator().manual_seed(0)
    maps = torch.rand(12, 64, 64, generator=rng) ** 3
    masks = torch.zeros(12, 64, 64)
    masks[4:, 10:30, 10:30] = 1
    maps[:, 10:30, 10:30] += 0.2 * torch.rand(12, 1, 1, generator=rng)
    result = {}
    for score_range in (None, (0.0, 1.2)):
        evaluator = Evaluator("exact", score_range, bootstrap=1000, metrics=["pixel_auroc", "pixel_ap", "aupro"])
        evaluator.update(["a"] * 12, maps.amax((1, 2)), masks.amax((1, 2)), maps, masks)
        result[score_range] = evaluator.compute().intervals["a"]
    for metric, ends in result[None].items():
        assert result[0.0, 1.2][metric] == pytest.approx(ends, abs=0.15 * (ends[1] - ends[0]))
