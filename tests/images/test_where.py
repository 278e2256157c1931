"""Regions of interest and masks of what does not count."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.images import ImageError
from zsad.images.where import Roi, Where, greyed, scaled, told


@pytest.mark.parametrize(
    ("text", "size", "box"),
    [
        ("10,20,30,40", (100, 200), (10, 20, 40, 60)),
        ("10%,20%,50%,50%", (100, 200), (20, 20, 120, 70)),
        ("0,0,100%,100%", (33, 77), (0, 0, 77, 33)),
        ("25%, 10, 50%, 20", (100, 200), (50, 10, 150, 30)),
    ],
)
def test_a_region_is_pixels_or_per_cent(text: str, size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    roi = Roi.read(text)
    assert roi.box(size) == box
    assert Roi.read(str(roi)) == roi


@pytest.mark.parametrize(
    "text", ["10,20,30", "a,b,c,d", "-1,0,5,5", "0,0,0,5", "60%,0,50%,100%", "1,2,3,4,5", "nan,0,1,1"]
)
def test_what_is_no_region_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=text.split(",")[0]):
        Roi.read(text)


def test_a_region_that_leaves_a_picture_says_both_sizes() -> None:
    with pytest.raises(ImageError, match=r"10,20,300,40 leaves the picture of 200 x 100 pixels"):
        Roi.read("10,20,300,40").box((100, 200))


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """A mask of 40 x 20 pixels whose left half does not count."""
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_what_was_left_out_is_the_mask_and_all_outside_the_region(mask: Path) -> None:
    left_out = Where.of("25%,0,50%,100%", mask).left_out((200, 400), (50, 100))
    expected = np.ones((50, 100), bool)
    expected[:, 50:75] = False
    np.testing.assert_array_equal(left_out, expected)


def test_a_mask_of_other_proportions_is_refused(mask: Path) -> None:
    with pytest.raises(ImageError, match=r"40 x 20 pixels, the picture 100 x 100: the proportions differ"):
        Where.of(ignore_mask=mask).check((100, 100))
    Where.of(ignore_mask=mask).check((1000, 2000))


def test_identity_is_the_text_and_the_content(mask: Path, tmp_path: Path) -> None:
    assert Where().identity() is None
    one = Where.of("1,2,3,4", mask).identity()
    Image.open(mask).save(other := tmp_path / "other.bmp")
    assert Where.of("1, 2,3,4", other).identity() == one
    Image.new("L", (40, 20)).save(changed := tmp_path / "changed.png")
    assert Where.of("1,2,3,4", changed).identity() != one
    assert one is not None
    assert told(one).startswith("the region 1,2,3,4 without the mask ")


def test_an_unreadable_mask_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        Where.of(ignore_mask=tmp_path / "nowhere.png")


def test_what_a_list_says_replaces_what_is_said_for_all(mask: Path) -> None:
    every = Where.of("1,2,3,4", mask)
    assert every.instead(None, None) is every
    assert every.instead("5,6,7,8", None) == Where.of("5,6,7,8", mask)


def test_scaled_boxes_have_at_least_a_pixel() -> None:
    assert scaled((90, 90, 100, 100), (1000, 1000), (10, 10)) == (1, 1, 2, 2)
    assert scaled((995, 995, 1000, 1000), (1000, 1000), (10, 10)) == (9, 9, 10, 10)


def test_what_was_left_out_has_no_colour() -> None:
    picture = Image.new("RGB", (4, 4), (200, 10, 10))
    shown = np.asarray(greyed(picture, np.eye(4, dtype=bool)))
    assert (np.ptp(shown[np.eye(4, dtype=bool)], axis=-1) == 0).all()
    assert (shown[~np.eye(4, dtype=bool)] == (200, 10, 10)).all()
