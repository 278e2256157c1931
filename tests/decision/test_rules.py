"""Thresholds from labelled images against scikit-learn's curves."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_recall_curve, roc_curve

from zsad.decision.conformal import TooFewImagesError
from zsad.decision.rules import Rule, choose, figures, held_out, precision_at


def samples(
    seed: int, n0: int = 60, n1: int = 25, levels: float = 5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(size=n0) * levels) / levels, np.round((rng.normal(size=n1) + 1.5) * levels) / levels


@pytest.mark.parametrize("seed", range(10))
def test_f1_and_youden_are_those_of_scikit_learn(seed: int) -> None:
    good, bad = samples(seed)
    scores, labels = np.concatenate([good, bad]).astype(np.float32), np.repeat([0, 1], [len(good), len(bad)])
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)[-1]  # of equal ones the highest threshold
    assert choose(Rule("f1"), good, bad) == pytest.approx(float(thresholds[best]))
    assert figures(choose(Rule("f1"), good, bad), good.astype(np.float32), bad.astype(np.float32)).f1 == pytest.approx(
        f1_score(labels, scores >= choose(Rule("f1"), good, bad))
    )
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    best = np.flatnonzero(tpr - fpr >= (tpr - fpr).max() - 1e-12)[0]
    assert choose(Rule("youden"), good, bad) == pytest.approx(float(thresholds[best]))


@pytest.mark.parametrize("seed", range(5))
def test_precision_and_cost_by_trying_every_threshold(seed: int) -> None:
    good, bad = samples(seed)
    good, bad = good.astype(np.float32), bad.astype(np.float32)
    candidates = np.unique(np.concatenate([good, bad]))
    found = [(float(t), figures(float(t), good, bad, 0.1)) for t in candidates]
    enough = [t for t, one in found if one.precision >= 0.6]
    assert choose(Rule.read("precision=0.6"), good, bad, 0.1) == pytest.approx(min(enough))
    costs = [1 * 0.9 * one.far + 20 * 0.1 * (1 - one.recall) for _, one in found]
    t = choose(Rule.read("cost=1:20"), good, bad, 0.1)
    at = figures(t, good, bad)
    assert 0.9 * at.far + 2 * (1 - at.recall) == pytest.approx(min(costs))


def test_recall_rule_keeps_its_promise() -> None:
    rng = np.random.default_rng(0)
    misses = []
    for _ in range(20_000):
        scores = rng.normal(size=21)
        misses.append(scores[20] < choose(Rule.read("recall=0.9"), [], scores[:20]))
    theory = 2 / 21
    assert abs(np.mean(misses) - theory) < 4 * (theory * (1 - theory) / 20_000) ** 0.5


def test_recall_with_too_few_defects() -> None:
    assert choose(Rule.read("recall=0.9"), [], np.arange(9.0)) == 0
    with pytest.raises(TooFewImagesError, match=r"recall=0.9 needs at least 9 anomalous images, there are 8: add 1"):
        choose(Rule.read("recall=0.9"), [], np.arange(8.0))


def test_normal_images_alone_have_no_f1() -> None:
    with pytest.raises(ValueError, match="f1 needs normal and anomalous images, got 3 and 0: with normal images alone"):
        choose(Rule("f1"), [1, 2, 3], [])


def test_unreachable_precision() -> None:
    with pytest.raises(ValueError, match=r"No threshold has a precision of 0\.99"):
        choose(Rule.read("precision=0.99"), [5.0, 6.0], [1.0, 2.0])


def test_precision_at_a_prevalence() -> None:
    assert precision_at(0.9, 0.05, 0.01) == pytest.approx(0.1538, abs=1e-4)


def test_held_out_figures_are_less_rosy() -> None:
    inside, outside = [], []
    for seed in range(12):
        good, bad = samples(seed, 20, 5, 1e6)
        inside.append(figures(choose(Rule("f1"), good, bad), good.astype(np.float32), bad.astype(np.float32)).f1)
        estimate = held_out(Rule("f1"), good, bad)
        assert estimate is not None
        outside.append(estimate.f1)
    assert np.mean(outside) < np.mean(inside) - 0.08
    assert held_out(Rule("f1"), *samples(0, 20, 4)) is None


@pytest.mark.parametrize("text", ["far=0.05", "any=0.1", "recall=0.95", "f1", "youden", "precision=0.9", "cost=1:20"])
def test_rules_are_read_and_written(text: str) -> None:
    assert str(Rule.read(text)) == text


@pytest.mark.parametrize(
    "text", ["far=2", "f1=0.3", "cost=1", "cost=0:1", "cost=nan:1", "recall", "median", "far=x", ""]
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError, match="A rule is far=SHARE"):
        Rule.read(text)
