"""Image and mask move together, by seed, as the formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from zsad.training.augment import VIEWS, ColourJitter, move, move_batch, view


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def picture() -> tuple[Tensor, Tensor]:
    """A normalised image that equals 5 exactly where its mask is set, and lies in [1, 2] elsewhere."""
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[5:15, 30:50] = True
    image = 1 + torch.rand(3, 40, 60, generator=draw())
    return torch.where(mask, 5.0, image), mask


def test_image_and_mask_stay_together(picture: tuple[Tensor, Tensor]) -> None:
    changed = 0
    for seed in range(40):
        image, mask = move(*picture, draw(seed))
        assert mask.dtype == torch.bool
        assert torch.equal(mask, image[0] == 5)  # nearest neighbour keeps values, so the mask can be read off
        outside = (image == 0).all(dim=0)  # the mean colour comes in, and never a defect
        assert not mask[outside].any()
        assert set(image[:, ~outside & ~mask].flatten().tolist()) <= set(picture[0].flatten().tolist())
        changed += not torch.equal(image, picture[0])
    assert 30 <= changed < 40  # 1 of 16 draws changes nothing


def test_probability_zero_changes_nothing(picture: tuple[Tensor, Tensor]) -> None:
    image, mask = move(*picture, draw(), p=0)
    assert torch.equal(image, picture[0])
    assert torch.equal(mask, picture[1])


def test_shift_is_by_whole_pixels_within_the_range(picture: tuple[Tensor, Tensor]) -> None:
    seen = set()
    for seed in range(60):
        image, _ = move(*picture, draw(seed), p=1, rotation=0)
        image = image.flip(1).flip(2)  # both flips always happen with p = 1
        fits = [
            (dy, dx)
            for dy in range(-6, 7)
            for dx in range(-9, 10)
            if np.array_equal(ndimage.shift(picture[0][0].numpy(), (dy, dx), order=0), image[0].numpy())
        ]
        assert len(fits) == 1, f"seed {seed}: no shift within 15 % of 40 x 60 pixels explains the picture"
        seen.add(fits[0])
    rows, columns = {dy for dy, _ in seen}, {dx for _, dx in seen}
    assert min(rows) < -3 < 3 < max(rows)
    assert min(columns) < -5 < 5 < max(columns)


def test_rotation_is_about_the_centre_and_within_the_range() -> None:
    line = torch.zeros(3, 101, 101)
    line[:, 50, :] = 1
    angles = []
    for seed in range(60):
        image, _ = move(line, torch.zeros(101, 101, dtype=torch.bool), draw(seed), p=1, shift=0)
        rows, columns = np.nonzero(image[0].flip(0).flip(1).numpy())
        assert image[0, 50, 50] == 1
        angles.append(np.degrees(np.arctan(np.polyfit(columns - 50, rows - 50, 1)[0])))
    assert -31 < min(angles) < -20
    assert 20 < max(angles) < 31
    assert np.std(angles) == pytest.approx(60 / 12**0.5, rel=0.2)  # uniform in [-30, 30]


def test_each_change_has_its_own_coin() -> None:
    ramp = torch.arange(64.0).reshape(8, 8).expand(3, 8, 8) + 1
    kinds = {"none": ramp, "left-right": ramp.flip(2), "upside down": ramp.flip(1), "both": ramp.flip(1).flip(2)}
    counts = dict.fromkeys(kinds, 0)
    for seed in range(400):
        image, _ = move(ramp, torch.zeros(8, 8, dtype=torch.bool), draw(seed), rotation=0, shift=0)
        counts[next(name for name, one in kinds.items() if torch.equal(one, image))] += 1
    assert all(abs(number - 100) < 35 for number in counts.values()), counts  # four standard deviations


def test_a_batch_is_moved_by_key_alone(picture: tuple[Tensor, Tensor]) -> None:
    images, masks = (one.expand(4, *one.shape) for one in picture)
    keys = ["111/0/a.png", "111/0/b.png", "111/0/c.png", "111/1/a.png"]
    together = move_batch(images, masks, keys)
    torch.rand(17)  # the global stream takes no part
    order = [3, 1, 0, 2]
    shuffled = move_batch(images, masks, [keys[i] for i in order])
    for one, other in zip(together, shuffled, strict=True):
        assert torch.equal(one[order], other)
    assert len({tuple(image.flatten().tolist()) for image in together[0]}) == 4


def test_jitter_leaves_the_mask_alone_and_follows_the_seed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    mask = np.eye(20, 30, dtype=np.uint8)
    jitter = ColourJitter()

    def run(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        changed = jitter(image=image, mask=mask)
        assert np.array_equal(changed["mask"], mask)
        assert changed["image"].dtype == np.uint8
        return changed["image"]

    assert np.array_equal(run(3), run(3))
    same = np.mean([np.array_equal(run(seed), image) for seed in range(400)])
    assert same == pytest.approx(0.3**3, abs=0.025)  # all three coins fall the other way


def test_jitter_factors() -> None:
    """On a grey picture only brightness acts: value times a factor in [0.5, 1.5], with probability 0.7."""
    grey = np.full((6, 6, 3), 100, np.uint8)
    torch.manual_seed(0)
    values = np.array([ColourJitter()(image=grey, mask=grey[..., 0])["image"][0, 0, 0] for _ in range(600)])
    assert 50 <= values.min() <= 54
    assert 146 <= values.max() <= 150
    assert (values == 100).mean() == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize(
    ("option", "message"), [({"p": 1.1}, "p must be in"), ({"strength": -0.1}, "strength must be")]
)
def test_jitter_refuses(option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ColourJitter(**option)


@pytest.mark.parametrize("number", range(VIEWS))
def test_views_are_affine_maps_of_pixel_centres_with_reflected_borders(number: int) -> None:
    image = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = view(image, number).numpy()
    angles = dict(zip(range(1, 5), (-np.pi / 8, -np.pi / 16, np.pi / 16, np.pi / 8), strict=True))
    shifts = {5: (0.1, 0.1), 6: (-0.1, 0.1), 7: (-0.1, -0.1), 8: (0.1, -0.1)}
    rows, columns = np.meshgrid((2 * np.arange(12) + 1) / 12 - 1, (2 * np.arange(16) + 1) / 16 - 1, indexing="ij")
    cos, sin = np.cos(angles.get(number, 0)), np.sin(angles.get(number, 0))
    right, down = shifts.get(number, (0, 0))
    x, y = cos * columns - sin * rows + right, sin * columns + cos * rows + down
    x, y = (-x if number == 9 else x), (-y if number == 10 else y)
    places = [((y + 1) * 12 - 1) / 2, ((x + 1) * 16 - 1) / 2]
    expected = [
        [ndimage.map_coordinates(one, places, order=1, mode="reflect") for one in channels] for channels in image
    ]
    np.testing.assert_allclose(got, np.array(expected), atol=1e-10)
    with pytest.raises(ValueError, match="There are views 0 to 10, got 11"):
        view(image, 11)
