"""Regions against drawn blobs, SciPy, and conformal simulations."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops

from zsad.decision import Region, regions
from zsad.decision.entry import RegionRule
from zsad.decision.regions import MOST, area_in_pixels, calibrated_regions, count, largest_area, rasterise


def blobs(seed: int, size: int = 120) -> NDArray[np.bool_]:
    """Smooth random blobs with holes, some at the border."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(size, size)), 4)
    ring = np.abs(field - np.quantile(field, 0.8)) < 0.6 * field.std()
    return np.asarray(ring)


def test_mask_to_polygons_to_mask() -> None:
    holes = 0
    for seed in range(100):
        mask = blobs(seed)
        again = np.zeros_like(mask)
        for region in regions(mask.astype(np.float32), 0.5):
            again |= region.mask(*mask.shape)
            holes += len(region.rings) - 1
        assert (mask & again).sum() / (mask | again).sum() >= 0.98
    assert holes > 100


def test_measures_are_those_of_scikit_image() -> None:
    anomaly_map = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(90, 130)), 4).astype(np.float32)
    threshold = float(np.quantile(anomaly_map, 0.9))
    labels, _ = ndimage.label(anomaly_map >= threshold, structure=np.ones((3, 3)))
    expected = regionprops(labels, anomaly_map)
    found = regions(anomaly_map, threshold)
    assert len(found) == len(expected) == count(anomaly_map, threshold)
    assert [one.max for one in found] == sorted((one.max for one in found), reverse=True)
    by_box = {one.box: one for one in found}
    for one in expected:
        top, left, bottom, right = one.bbox
        own = by_box[left, top, right - left, bottom - top]
        assert own.area == one.area
        assert own.max == one.intensity_max
        assert own.mean == pytest.approx(one.intensity_mean, rel=1e-5)
        assert own.centroid == pytest.approx((one.centroid[1] + 0.5, one.centroid[0] + 0.5))
        assert len(own.rings) == 1 - one.euler_number + 1  # outline and holes
    assert largest_area(anomaly_map, threshold) == max(one.area for one in expected)


def test_diagonal_neighbours_are_one_region_with_one_outline() -> None:
    (region,) = regions(np.eye(6, dtype=np.float32), 0.5)
    assert region.area == 6
    assert len(region.rings) == 1


def test_single_pixels_and_the_whole_image() -> None:
    anomaly_map = np.zeros((5, 7), np.float32)
    anomaly_map[2, 3] = 1
    (one,) = regions(anomaly_map, 1.0)
    assert one.box == (3, 2, 1, 1)
    assert one.centroid == (3.5, 2.5)
    assert (one.mask(5, 7) == (anomaly_map > 0)).all()
    (whole,) = regions(np.ones((5, 7), np.float32), 1.0)
    assert whole.mask(5, 7).all()
    assert regions(anomaly_map, 2.0) == []


def test_threshold_is_inclusive_in_the_maps_own_precision() -> None:
    anomaly_map = np.full((3, 3), 0.1, np.float32)
    assert count(anomaly_map, 0.1) == 1  # float32(0.1) is above the double 0.1; its neighbour below is not
    assert count(np.nextafter(anomaly_map, np.float32(0)), 0.1) == 0


def test_small_regions_are_dropped_and_many_are_counted() -> None:
    anomaly_map = np.zeros((60, 60), np.float32)
    anomaly_map[::3, ::3] = np.linspace(0.5, 1, 400).reshape(20, 20)
    anomaly_map[0:2, 0:2] = 2
    assert [one.area for one in regions(anomaly_map, 0.4, min_area=2)] == [4]
    rule = RegionRule.of_maxima(np.linspace(0, 0.4, 40), 0.05)
    found, total = calibrated_regions(anomaly_map, rule)
    assert (len(found), total) == (MOST, 400)
    assert found[0].max == 2
    assert {one.p_value for one in found} == {1 / 41}
    assert found[0].score == 1 - 1 / 41


@pytest.mark.parametrize("n", [20, 50])
def test_normal_images_show_a_region_as_rarely_as_promised(n: int) -> None:
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.normal(size=(600, 40, 40)), (0, 3, 3)).astype(np.float32)
    shown = by_quantile = total = 0
    for repeat in range(30):
        order = rng.permutation(600)
        own, new = fields[order[:n]], fields[order[n : n + 60]]
        rule = RegionRule.of_maxima(own.max((1, 2)), 0.05)
        quantile = float(np.quantile(own, 0.999))
        shown += sum(bool(calibrated_regions(one, rule)[0]) for one in new)
        by_quantile += sum(count(one, quantile) > 0 for one in new)
        total += len(new)
        assert repeat < 60
    assert shown / total < 0.05 + 0.02
    assert by_quantile / total > 0.1  # a quantile of pixels says nothing about images


def test_regions_survive_their_json() -> None:
    for region in regions(blobs(3).astype(np.float32) * 0.7, 0.5):
        again = Region.from_json(region.to_json())
        assert (again.area, again.box) == (region.area, region.box)
        assert again.max == pytest.approx(region.max)
        own, other = region.mask(120, 120), again.mask(120, 120)
        assert (own != other).sum() <= 0.01 * region.area + 2
    with pytest.raises(ValueError, match="No region as 'zsad score --calibration' writes them"):
        Region.from_json({"box": [1, 2]})


def test_areas_in_square_millimetres() -> None:
    assert area_in_pixels(1.0, 0.1) == 100
    assert area_in_pixels(0, 0.1) == 0
    with pytest.raises(ValueError, match="neither may be negative"):
        area_in_pixels(1, 0)


def test_maps_have_two_dimensions() -> None:
    with pytest.raises(ValueError, match=r"\(height, width\), got \(1, 2, 3\)"):
        regions(np.zeros((1, 2, 3)), 0.5)


def test_rasterise_by_pixel_centres() -> None:
    square = ((1.0, 1.0), (4.0, 1.0), (4.0, 3.0), (1.0, 3.0))
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:4] = True
    assert (rasterise([square], 5, 6) == expected).all()
