import colorsys

import numpy as np
import pytest

from zsad.synthetic.noise import cells, field, fractal, hsv, mix, uv


def test_field_is_standardised_and_smooth_on_the_scale_of_its_cells() -> None:
    fine, coarse = (field(np.random.default_rng(0), 96, cell) for cell in (1.5, 20))
    for noise in (fine, coarse):
        assert noise.shape == (96, 96)
        assert noise.mean() == pytest.approx(0, abs=1e-4)
        assert noise.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(coarse, axis=1)).mean() < 0.3 * np.abs(np.diff(fine, axis=1)).mean()


@pytest.mark.parametrize(("angle", "along"), [(0.0, 1), (np.pi / 2, 0)])
def test_streaks_run_along_their_angle(angle: float, along: int) -> None:
    streaks = field(np.random.default_rng(1), 96, 1.5, 40.0, angle)
    assert np.abs(np.diff(streaks, axis=along)).mean() < 0.3 * np.abs(np.diff(streaks, axis=1 - along)).mean()


@pytest.mark.parametrize("angle", [0.3, 1.9, 4.4])
def test_rotated_field_has_no_empty_corner(angle: float) -> None:
    noise = field(np.random.default_rng(2), 96, 1.0, 80.0, angle)
    for corner in (noise[:12, :12], noise[:12, -12:], noise[-12:, :12], noise[-12:, -12:]):
        assert corner.std() > 0.2


def test_fractal_has_unit_deviation() -> None:
    assert fractal(np.random.default_rng(3), 64, 20).std() == pytest.approx(1, abs=1e-3)


def test_uv_rotates_distances_without_changing_them() -> None:
    (x, y), (u, v) = uv(96, 0.0), uv(96, 0.7)
    np.testing.assert_allclose(u**2 + v**2, x**2 + y**2, atol=1e-2)
    assert uv(192, 0.0)[0].max() == pytest.approx(x.max(), abs=0.5)  # lengths do not depend on the picture's size


def test_cells_know_the_nearest_points() -> None:
    near, second, number, count = cells(np.random.default_rng(4), 48, 10.0)
    assert (near <= second).all()
    assert near.max() < 15
    assert number.max() < count


def test_mix_blends_and_clips() -> None:
    blend = mix(np.array([[-1.0, 0.5, 2.0]]), (0, 0, 0), (1, 0.5, 0))
    np.testing.assert_allclose(blend[0], [(0, 0, 0), (0.5, 0.25, 0), (1, 0.5, 0)])


def test_hue_wraps_around() -> None:
    assert hsv(1.25, 0.5, 0.5) == pytest.approx(colorsys.hsv_to_rgb(0.25, 0.5, 0.5))
