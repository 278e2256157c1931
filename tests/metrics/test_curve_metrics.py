"""AUROC, average precision and F1-max against scikit-learn."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor

from zsad.metrics import AUROC, AveragePrecision, F1Max, UndefinedMetricWarning, auroc, average_precision, f1_max
from zsad.metrics.accumulator import Mode


def sklearn_f1_max(labels: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(2 * precision * recall / (precision + recall)))


CASES = [
    (auroc, AUROC, roc_auc_score),
    (average_precision, AveragePrecision, average_precision_score),
    (f1_max, F1Max, sklearn_f1_max),
]
Function = Callable[[Tensor, Tensor], Tensor]
Reference = Callable[[np.ndarray, np.ndarray], float]


def sample(levels: int | None, seed: int = 0, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, 2, n)
    scores = (40 * rng.randn(n) + 25 * labels).astype(np.float32)  # unbounded, both signs
    if levels:
        scores = np.round(scores / 200 * levels)
    return scores, labels


@pytest.mark.parametrize(("function", "metric", "reference"), CASES)
@pytest.mark.parametrize("levels", [None, 9, 1])
def test_equals_scikit_learn(function: Function, metric: type[AUROC], reference: Reference, levels: int | None) -> None:
    scores, labels = sample(levels)
    expected = reference(labels, scores)
    assert function(torch.from_numpy(scores), torch.from_numpy(labels)).item() == pytest.approx(expected, abs=1e-12)
    state = metric(mode="exact")
    for part in np.array_split(np.argsort(scores), 7):  # each batch has another range of scores
        state.update(torch.from_numpy(scores[part]), torch.from_numpy(labels[part]))
    assert state.compute().item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("function", "metric", "reference"), CASES)
@pytest.mark.parametrize("score_range", [None, (-200.0, 200.0)])
def test_binned_value_lies_in_its_bound(
    function: Function, metric: type[AUROC], reference: Reference, score_range: tuple[float, float] | None
) -> None:
    scores, labels = sample(None, n=5000)
    state = metric(score_range=score_range, bits=12)  # few bins, so that the bound has something to say
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state.update(torch.from_numpy(scores), torch.from_numpy(labels))
        value = state.compute().item()
    bound = state.bound()
    assert 0 < bound < 0.1
    assert abs(value - reference(labels, scores)) <= bound + 1e-12


def test_real_ties_do_not_widen_the_bound() -> None:
    scores, labels = sample(9)
    for metric, reference in (
        (AUROC, roc_auc_score),
        (AveragePrecision, average_precision_score),
        (F1Max, sklearn_f1_max),
    ):
        state = metric()
        state.update(torch.from_numpy(scores), torch.from_numpy(labels))
        assert state.bound() == 0
        assert state.compute().item() == pytest.approx(reference(labels, scores), abs=1e-12)


@pytest.mark.parametrize(("function", "metric", "reference"), CASES)
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_is_nan_with_one_warning(
    function: Function, metric: type[AUROC], reference: Reference, label: int
) -> None:
    scores, labels = torch.rand(5), torch.full((5,), label)
    what = "anomalous" if label == 0 else "normal"
    with pytest.warns(UndefinedMetricWarning, match=f"nothing is labelled {what}") as caught:
        assert math.isnan(function(scores, labels).item())
    assert len(caught) == 1
    for mode in ("exact", "binned"):
        state = metric(mode=mode)
        state.update(scores, labels)
        with pytest.warns(UndefinedMetricWarning, match=metric.__name__) as caught:
            assert math.isnan(state.compute().item())
        assert len(caught) == 1


@pytest.mark.parametrize("mode", ["exact", "binned"])
def test_empty_update_and_scalar_batches_work(mode: str) -> None:
    state = AUROC(mode=mode)  # type: ignore[arg-type]
    state.update(torch.zeros(0), torch.zeros(0))
    state.update(torch.tensor(0.7), torch.tensor(1))
    state.update(torch.tensor([0.2]), torch.tensor([0]))
    assert state.compute().item() == 1.0


@pytest.mark.parametrize(("function", "metric", "reference"), CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_keep_their_order(
    function: Function, metric: type[AUROC], reference: Reference, dtype: torch.dtype
) -> None:
    scores, labels = sample(None)
    cast = torch.from_numpy(scores).to(dtype)
    expected = reference(labels, cast.double().numpy())
    assert function(cast, torch.from_numpy(labels)).item() == pytest.approx(expected, abs=1e-12)


def test_float64_scores_closer_than_float32_stay_apart_in_exact_mode() -> None:
    scores = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert auroc(scores, torch.tensor([0, 1])).item() == 1.0
    state = AUROC(mode="exact")
    state.update(scores, torch.tensor([0, 1]))
    assert state.compute().item() == 1.0


def test_minus_zero_ties_with_zero() -> None:
    state = AUROC()
    state.update(torch.tensor([-0.0, 0.0]), torch.tensor([0, 1]))
    assert state.compute().item() == 0.5


@given(
    st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
    st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_order_batches_and_monotone_scale_do_not_matter(
    pairs: list[tuple[int, bool]], random: object, batches: int
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for function, metric, reference in CASES:
        first = metric(mode="exact")
        second = metric(bits=16)
        for part in np.array_split(np.arange(len(shuffled)), batches):
            chosen = [shuffled[i] for i in part]
            scores = torch.tensor([float(score) for score, _ in chosen])
            labels = torch.tensor([label for _, label in chosen])
            first.update(4 * scores, labels)
            second.update((scores / 10).exp(), labels)
        scores, labels = torch.tensor([float(s) for s, _ in pairs]), torch.tensor([label for _, label in pairs])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            value, other, binned = function(scores, labels).item(), first.compute().item(), second.compute().item()
        if labels.all() or not labels.any():
            assert all(math.isnan(found) for found in (value, other, binned))
        else:
            expected = reference(labels.numpy(), scores.numpy())
            assert value == pytest.approx(expected, abs=1e-12)
            assert other == pytest.approx(expected, abs=1e-12)
            assert binned == pytest.approx(expected, abs=1e-12)  # 41 levels never share a bin


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="scores must be finite"):
        auroc(torch.tensor([1.0, bad]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="scores must be finite"):
        AUROC().update(torch.tensor([1.0, bad]), torch.tensor([0, 1]))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(3,\) and \(2,\)"):
        auroc(torch.zeros(3), torch.zeros(2))


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'exact' or 'binned', got 'fast'"):
        AUROC(mode="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["exact", "binned"])
def test_forward_gives_the_batch_value_and_collects(mode: str) -> None:
    state = AUROC(mode=mode)  # type: ignore[arg-type]
    assert state(torch.tensor([0.1, 0.9]), torch.tensor([0, 1])).item() == 1.0
    assert state(torch.tensor([0.95, 0.2]), torch.tensor([0, 1])).item() == 0.0
    scores, labels = np.array([0.1, 0.9, 0.95, 0.2], np.float32), np.array([0, 1, 0, 1])
    assert state.compute().item() == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    state.reset()
    state.update(torch.tensor([0.1, 0.9]), torch.tensor([1, 0]))
    assert state.compute().item() == 0.0


@pytest.mark.parametrize("mode", ["exact", "binned"])
def test_scores_with_a_graph_are_taken_as_numbers(mode: Mode) -> None:
    state = AUROC(mode=mode)
    state.update(torch.tensor([0.1, 0.4, 0.9], requires_grad=True), torch.tensor([0, 0, 1]))
    assert state.compute().item() == 1.0
