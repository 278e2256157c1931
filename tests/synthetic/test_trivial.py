import numpy as np
import pytest

from zsad.synthetic.trivial import centre_prior, colour_outlier


def test_centre_prior_falls_with_the_distance_to_the_middle() -> None:
    prior = centre_prior(5, 9)
    assert prior.shape == (5, 9)
    assert prior[2, 4] == prior.max() == 1
    assert prior[0, 0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(prior, prior[::-1, ::-1], atol=1e-6)


def test_colour_outlier_is_the_distance_to_the_mean_colour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    distance, score = colour_outlier(image)
    mean = image.reshape(-1, 3).astype(float).mean(0) / 255
    for y, x in ((0, 0), (3, 5)):
        assert distance[y, x] == pytest.approx(np.sqrt(((image[y, x] / 255 - mean) ** 2).sum()), abs=1e-6)
    assert score == pytest.approx(distance.max())


def test_colour_outlier_refuses_other_images() -> None:
    with pytest.raises(ValueError, match=r"got shape \(4, 4\), uint8"):
        colour_outlier(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="float64"):
        colour_outlier(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
