"""Windows that stay quiet, and those that do not."""

import numpy as np
import pytest
from scipy.stats import betabinom, kstest

from zsad.decision.conformal import Calibration, alarms_allowed
from zsad.decision.drift import FIRST, LEVEL, Watch, window_p_values

K = alarms_allowed(0.05, 100)


def watch(seed: int, shift: float = 0.0, defects: float = 0.0, m: int = 1_000) -> Watch:
    rng = np.random.default_rng(seed)
    made = Watch(Calibration.of(rng.normal(size=100)), K)
    scores = rng.normal(size=m) + shift + 3 * (rng.uniform(size=m) < defects)
    made.add(scores)
    return made


def test_one_window_follows_the_exact_law() -> None:
    rng = np.random.default_rng(0)
    found = np.array(
        [window_p_values(Calibration.of(rng.normal(size=100)), rng.normal(size=50), K) for _ in range(1_500)]
    )
    for share in (0.01, 0.05):
        assert (found <= share).mean(0).max() < share + 4 * (share / 1_500) ** 0.5
    calibration = Calibration.of(np.arange(100.0))
    scores = np.concatenate([np.full(40, 10.5), np.full(10, 200.0)])
    _, tail = window_p_values(calibration, scores, K)
    assert tail == pytest.approx(betabinom.sf(9, 50, K, 101 - K))
    # without ties the count at the half is beta-binomial: its p-values are no smaller than uniform
    assert kstest(found[:, 0], "uniform", alternative="greater").pvalue > 1e-3


def test_ties_do_not_warn() -> None:
    rng = np.random.default_rng(1)
    found = np.array(
        [window_p_values(Calibration.of(rng.integers(0, 5, 100)), rng.integers(0, 5, 50), K) for _ in range(600)]
    )
    assert (found <= 0.01).mean(0).max() <= 0.01 + 4 * (0.01 / 600) ** 0.5


def test_quiet_on_a_thousand_windows() -> None:
    made = [watch(seed) for seed in range(125)]  # 8 windows each
    windows = [window for one in made for window in one.windows]
    assert len(windows) == 1_000
    assert [window for window in windows if window.kind is not None] == []


def test_the_levels_sum_to_the_promise() -> None:
    one = watch(0, m=5_000)
    assert sum(window.level for window in one.windows) < LEVEL


def test_a_shift_is_found_within_200_images() -> None:
    for seed in range(10):
        changed = [window for window in watch(seed, shift=1.0).windows if window.kind == "changed"]
        assert changed
        assert changed[0].last <= 4 * FIRST


def test_defects_are_not_called_a_change() -> None:
    for seed in range(40):
        assert all(window.kind != "changed" for window in watch(seed, defects=0.05).windows)
    kinds = [window.kind for seed in range(10) for window in watch(seed, defects=0.2).windows]
    assert kinds.count("defects") > 30
    assert kinds.count("defects") > 10 * kinds.count("changed")


def test_warnings_come_once_and_then_at_each_doubling() -> None:
    rng = np.random.default_rng(0)
    made = Watch(Calibration.of(rng.normal(size=100)), K)
    warned = [window.last for score in rng.normal(size=3_000) + 3 for window in made.add([float(score)])]
    assert warned == [50, 100, 200, 400, 800, 1_600]


def test_messages_say_what_and_what_to_do() -> None:
    shifted = watch(0, shift=1.0)
    text = shifted.message(next(w for w in shifted.windows if w.kind == "changed"), "nut", "zsad calibrate good/")
    assert text.startswith("Your images have changed: images ")
    assert f"{shifted.median:.4g} in the calibration" in text
    assert text.endswith("calibrate again: zsad calibrate good/")
    bad = watch(0, defects=0.3)
    text = bad.message(next(w for w in bad.windows if w.kind == "defects"), "nut", "zsad calibrate good/")
    assert text.startswith("More defects than usual: ")
