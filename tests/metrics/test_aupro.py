"""AUPRO and its published variants against slow loops over thresholds and regions."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics.scenes import scene, slow_200step, slow_aupro, slow_mvtec3d
from zsad.metrics import AUPRO, ScoreRangeWarning, UndefinedMetricWarning, WideBoundWarning, aupro


@pytest.mark.parametrize("levels", [None, 7])
@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_equals_the_definition(levels: int | None, connectivity: Any, limit: float) -> None:
    maps, masks = scene(4, (12, 14), levels=levels or 60)
    expected = slow_aupro(maps, masks, limit, connectivity)
    assert aupro(maps, masks, limit, connectivity).item() == pytest.approx(expected, abs=1e-12)
    binned = AUPRO(limit, connectivity, score_range=(0, 1))
    binned.update(maps, masks)
    assert binned.bound() < 1e-9
    assert binned.compute().item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_variants_equal_their_loops(seed: int) -> None:
    maps, masks = scene(4, (16, 16), seed)
    for variant, slow in (("200step", slow_200step), ("mvtec3d", slow_mvtec3d)):
        expected = slow(maps, masks)
        assert aupro(maps, masks, variant=variant).item() == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]
    exact = aupro(maps, masks).item()
    assert aupro(maps, masks, variant="mvtec").item() == pytest.approx(exact, abs=1e-6)  # float32 rates
    assert aupro(maps, masks, variant="anomalib").item() == exact
    assert aupro(maps, masks, variant="200step", steps=1000).item() == pytest.approx(
        slow_200step(maps, masks, steps=1000)
    )


@pytest.mark.parametrize("variant", ["200step", "mvtec", "mvtec3d"])
def test_binned_variants_are_close_to_exact_ones(variant: Any) -> None:
    maps, masks = scene(8, (64, 64))
    binned = AUPRO(variant=variant, score_range=(0, 1))
    binned.update(maps, masks)
    assert binned.compute().item() == pytest.approx(aupro(maps, masks, variant=variant).item(), abs=2e-4)


def test_200step_depends_on_the_scale_and_the_exact_value_does_not() -> None:
    maps, masks = scene()
    scaled = torch.sigmoid(4 * (torch.logit(maps.double()) - 3))
    assert aupro(scaled, masks).item() == pytest.approx(aupro(maps.double(), masks).item(), abs=1e-12)
    assert abs(aupro(scaled, masks, variant="200step").item() - aupro(maps, masks, variant="200step").item()) > 0.05


def test_what_the_variants_do_where_the_definition_has_no_value() -> None:
    maps, masks = scene()
    empty = torch.zeros_like(masks)
    assert aupro(maps, empty, variant="anomalib").item() == 0.0
    with pytest.warns(UndefinedMetricWarning, match="no mask has a defect region"):
        assert math.isnan(aupro(maps, empty, variant="200step").item())
    with pytest.warns(UndefinedMetricWarning, match="this variant has no value"):
        assert math.isnan(aupro(torch.zeros_like(maps), masks, variant="200step").item())


@pytest.mark.parametrize("mode", ["exact", "binned"])
def test_edge_cases(mode: Any) -> None:
    maps, masks = scene()

    def value(maps: torch.Tensor, masks: torch.Tensor) -> float:
        metric = AUPRO(mode=mode)
        metric.update(maps, masks)
        return metric.compute().item()

    assert value(torch.full_like(maps, 0.3), masks) == pytest.approx(0.15, abs=1e-9)
    assert value(masks.float(), masks) == pytest.approx(1.0, abs=1e-9)
    assert value(1 - masks.float(), masks) == 0.0
    with pytest.warns(UndefinedMetricWarning, match="AUPRO is undefined.*no mask has a defect region"):
        assert math.isnan(value(maps, torch.zeros_like(masks)))
    with pytest.warns(UndefinedMetricWarning, match="AUPRO is undefined.*nothing is labelled normal"):
        assert math.isnan(value(maps, torch.ones_like(masks)))


@given(st.integers(0, 1000), st.permutations(range(6)), st.integers(1, 6), st.sampled_from([None, 5]))
@settings(max_examples=15, deadline=None)
def test_order_batches_shape_and_scale_do_not_matter(
    seed: int, order: list[int], batches: int, levels: int | None
) -> None:
    maps, masks = scene(seed=seed, size=(18, 12), levels=levels)
    expected = aupro(maps, masks).item()
    exact, first, second = AUPRO(mode="exact"), AUPRO(bits=16), AUPRO(bits=16)
    first.update(maps, masks)
    for part in torch.tensor(order).chunk(batches):
        exact.update(4 * maps[part][:, None], masks[part][:, None] * 255)
        second.update(list(maps[part]), [mask.bool() for mask in masks[part]])
    assert exact.compute().item() == pytest.approx(expected, abs=1e-12)
    for name in ("n_positive", "n_pixel", "weight", "low_score", "high_score", "n_regions"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert abs(first.counts().overlap[-1].item() - first.counts().regions) < 1e-6  # type: ignore[index]


def test_images_may_differ_in_size() -> None:
    parts = [scene(3, (24, 20), 1), scene(2, (16, 30), 2)]
    together, apart = AUPRO(mode="exact"), AUPRO(mode="exact")
    together.update([one for maps, _ in parts for one in maps], [mask for _, masks in parts for mask in masks])
    for maps, masks in parts:
        apart.update(maps, masks)
    assert together.compute().item() == apart.compute().item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["exact", "binned"])
def test_half_precision_maps_equal_their_exact_cast(dtype: torch.dtype, mode: Any) -> None:
    maps, masks = scene()
    half, full = AUPRO(mode=mode), AUPRO(mode=mode)
    half.update(maps.to(dtype), masks)
    full.update(maps.to(dtype).float(), masks)
    assert half.compute().item() == full.compute().item()


def test_float_and_integer_weights_agree() -> None:
    maps, masks = scene()
    integer, floating = AUPRO(), AUPRO(integer_weights=False)
    for metric in (integer, floating):
        metric.update(maps, masks)
    assert integer.compute().item() == pytest.approx(floating.compute().item(), abs=1e-11)


def test_map_and_mask_of_different_size_are_refused_or_resized() -> None:
    maps, masks = scene()
    large = masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    with pytest.raises(ValueError, match=r"map is \(24, 20\) pixels.*mask \(48, 40\).*resize='mask'"):
        AUPRO().update(maps, large)
    resized = AUPRO(mode="exact", resize="mask")
    resized.update(maps, large)
    assert resized.compute().item() == pytest.approx(aupro(maps, masks).item(), abs=1e-12)
    finer = AUPRO(mode="exact", resize="map")
    finer.update(maps, large)
    assert 0 < finer.compute().item() < 1


def test_coarse_bins_and_scores_out_of_range_are_warned_of() -> None:
    maps, masks = scene()
    coarse = AUPRO(bits=8)
    coarse.update(maps, masks)
    with pytest.warns(WideBoundWarning, match="AUPRO is only known to"):
        value = coarse.compute().item()
    assert abs(value - aupro(maps, masks).item()) <= coarse.bound()
    outside = AUPRO(score_range=(0, 0.5))
    outside.update(maps, masks)
    with pytest.warns() as caught:
        outside.compute()
    told = [str(w.message) for w in caught if w.category is ScoreRangeWarning]
    assert len(told) == 1
    assert told[0].startswith(f"{int((maps > 0.5).sum())} scores lie outside the declared range [0, 0.5]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fpr_limit": 0.0}, r"fpr_limit must lie in \(0, 1\], got 0.0"),
        ({"connectivity": 6}, "connectivity must be 8 .* or 4, got 6"),
        ({"variant": "mean"}, "variant must be one of exact, 200step.*got 'mean'"),
        ({"steps": 10}, "steps belongs to the variants '200step' and 'mvtec3d', but variant is 'exact'"),
        ({"variant": "200step", "steps": 1}, "steps must be at least 2, got 1"),
        ({"score_range": (1.0, 1.0)}, "score_range must be two finite numbers"),
        ({"bits": 30}, "bits must be between 8 and 24, got 30"),
    ],
)
def test_options_out_of_bounds_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AUPRO(**arguments)


def test_shapes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"anomaly_map must have shape .* got \(2, 3, 4, 5\)"):
        AUPRO().update(torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match="one mask per map, got 2 maps and 3 masks"):
        AUPRO().update(torch.zeros(2, 4, 5), torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match=r"Each gt_mask of a sequence .* got \(5,\)"):
        AUPRO().update([torch.zeros(4, 5)], [torch.zeros(5)])
