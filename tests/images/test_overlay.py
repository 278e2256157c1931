import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation
from skimage.color import rgb2lab

from zsad.images.overlay import colour_table, heat_map, limits_of, outline, overlay, relative


def test_every_colour_is_lighter_than_the_one_before() -> None:
    lightness = rgb2lab(colour_table()[None] / 255.0)[0, :, 0]
    steps = np.diff(lightness)
    assert steps.min() > -0.25  # rounding to 8 bits
    assert np.diff(lightness[::8]).min() > 0
    assert lightness[0] < 20
    assert lightness[-1] > 90


def test_colours_far_apart_on_the_scale_are_far_apart_to_the_eye() -> None:
    lab = rgb2lab(colour_table()[None, ::32] / 255.0)[0]
    assert np.linalg.norm(np.diff(lab, axis=0), axis=-1).min() > 10


def test_a_fixed_scale_gives_equal_values_equal_colours_in_different_maps() -> None:
    first, second = np.array([[0.2, 0.5]]), np.array([[0.5, 0.9]])
    one, two = (np.asarray(heat_map(one, (0.0, 1.0))) for one in (first, second))
    assert (one[0, 1] == two[0, 0]).all()
    assert (one[0, 0] != two[0, 1]).any()


def test_values_beyond_the_limits_are_clipped_and_nan_is_the_lowest() -> None:
    shares = relative(np.array([[-3.0, 0.5, 7.0, np.nan]]), (0.0, 1.0))
    assert shares.tolist() == [[0.0, 0.5, 1.0, 0.0]]


def test_constant_map_on_its_own_scale_is_the_lowest_colour() -> None:
    flat = np.full((2, 2), 3.0)
    assert (np.asarray(heat_map(flat, limits_of(flat, "image", None))) == colour_table()[0]).all()


def test_scale_declared_asked_for_and_own() -> None:
    values = np.array([[0.25, 0.75]])
    assert limits_of(values, None, (0.0, 1.0)) == (0.0, 1.0)
    assert limits_of(values, None, None) == (0.25, 0.75)
    assert limits_of(values, "image", (0.0, 1.0)) == (0.25, 0.75)
    assert limits_of(values, (-1.0, 2.0), (0.0, 1.0)) == (-1.0, 2.0)


@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.5, 0.5), "picture"])
def test_scale_that_is_none_is_refused(scale: object) -> None:
    with pytest.raises(ValueError, match=r"scale must be \(low, high\) with low < high, or 'image', got"):
        limits_of(np.zeros((1, 1)), scale, None)  # type: ignore[arg-type]


def test_overlay_keeps_the_image_where_the_map_is_low_and_covers_it_where_high() -> None:
    image = Image.new("RGB", (4, 2), (100, 100, 100))
    values = np.array([[0.0, 0.0, 1.0, 1.0]] * 2)
    pixels = np.asarray(overlay(image, values, (0.0, 1.0), opacity=0.5)).astype(float)
    np.testing.assert_allclose(pixels[0, 0], 0.95 * 100 + 0.05 * colour_table()[0].astype(float), atol=0.51)
    np.testing.assert_allclose(pixels[0, 3], 0.5 * 100 + 0.5 * colour_table()[255].astype(float), atol=0.51)


def test_overlay_without_opacity_is_the_image_and_a_small_map_is_enlarged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    picture = overlay(Image.fromarray(pixels), np.array([[0.0, 1.0]]), (0.0, 1.0), opacity=0.0)
    np.testing.assert_array_equal(np.asarray(picture), pixels)
    covered = np.asarray(overlay(Image.new("RGB", (10, 6)), np.array([[0.0, 1.0]]), (0.0, 1.0))).astype(int).sum(-1)
    assert (np.diff(covered, axis=1) >= 0).all()


def test_overlay_refuses_an_opacity_that_is_no_share() -> None:
    with pytest.raises(ValueError, match=r"opacity must be in \[0, 1\], got 2"):
        overlay(Image.new("RGB", (1, 1)), np.zeros((1, 1)), (0.0, 1.0), opacity=2)


def test_outline_runs_outside_of_the_mask_only() -> None:
    mask = np.zeros((9, 9), bool)
    mask[3:6, 3:6] = True
    pixels = np.asarray(outline(Image.new("RGB", (9, 9)), mask, (1, 2, 3)))
    np.testing.assert_array_equal((pixels == (1, 2, 3)).all(-1), binary_dilation(mask) ^ mask)
