import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from zsad.synthetic import (
    CLASSES,
    DEFECTS,
    HELD_OUT_CLASSES,
    HELD_OUT_DEFECTS,
    OBJECTS,
    SEEN_CLASSES,
    TEXTURES,
    generate,
)
from zsad.synthetic.generate import LEAST_CHANGE, LEAST_PIXELS, MOST
from zsad.synthetic.pen import Pen


def test_generator_does_not_import_torch() -> None:
    code = "import sys, zsad.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_classes_and_defects_are_split_as_documented() -> None:
    assert (len(TEXTURES), len(OBJECTS), len(HELD_OUT_CLASSES)) == (19, 19, 10)
    assert (len(DEFECTS), len(HELD_OUT_DEFECTS)) == (19, 4)
    assert sorted([*SEEN_CLASSES, *HELD_OUT_CLASSES]) == sorted(CLASSES)
    assert not set(SEEN_CLASSES) & set(HELD_OUT_CLASSES)


@pytest.mark.parametrize("class_name", CLASSES)
def test_same_arguments_give_the_same_bytes(class_name: str) -> None:
    defect = list(DEFECTS)[CLASSES.index(class_name) % len(DEFECTS)]
    first, second, other = (generate(class_name, defect, seed) for seed in (5, 5, 6))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.mask.tobytes() == second.mask.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("class_name", CLASSES)
def test_normal_picture_has_an_empty_mask_and_a_varied_surface(class_name: str) -> None:
    sample = generate(class_name, seed=1)
    assert sample.image.shape == (96, 96, 3)
    assert sample.image.dtype == np.uint8
    assert sample.mask.shape == sample.foreground.shape == (96, 96)
    assert not sample.mask.any()
    assert sample.defect == ""
    assert sample.image.std() > 3  # not a blank picture
    share = sample.foreground.mean()
    assert share == 1 if class_name in TEXTURES else 0.02 < share < 0.8


class Extreme(np.random.Generator):
    """Draws the lowest or the highest number of every range."""

    def __init__(self, high: bool) -> None:
        super().__init__(np.random.PCG64(0))
        self.high = high

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Return one end of the range."""
        end = high if self.high else low
        return end if size is None else np.full(size, end)

    def integers(self, low: Any, high: Any = None, size: Any = None, **given: Any) -> Any:  # type: ignore[override]
        """Return one end of the range."""
        low, high = (0, low) if high is None else (low, high)
        end = high - 1 if self.high else low
        return end if size is None else np.full(size, end)


@pytest.mark.parametrize("high", [True, False])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_can_be_drawn_at_the_ends_of_their_ranges(name: str, high: bool) -> None:
    pen = Pen(96)
    OBJECTS[name](Extreme(high), pen)
    assert np.asarray(pen.layer)[..., 3].any()


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("class_name", ["wood", "nut", "marble", "screw"])
def test_defect_changes_the_picture_inside_its_mask_only(class_name: str, defect: str) -> None:
    """Before camera effects: the normal twin of the same seed is equal outside the mask widened by a few pixels."""
    for seed in range(2):
        damaged, twin = (generate(class_name, name, seed, with_camera=False) for name in (defect, ""))
        change = np.abs(damaged.image.astype(float) - twin.image).mean(-1) / 255
        assert change[~ndimage.binary_dilation(damaged.mask, iterations=3)].max() == 0
        assert damaged.mask.sum() >= LEAST_PIXELS
        assert change[damaged.mask].mean() >= LEAST_CHANGE - 1 / 255  # half a grey level of rounding on both pictures


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(CLASSES), st.sampled_from(list(DEFECTS)), st.integers(0, 2**62))
@example("plastic", "smear", 8092842)
def test_every_defect_is_visible(class_name: str, defect: str, seed: int) -> None:
    sample, twin = (generate(class_name, name, seed, with_camera=False) for name in (defect, ""))
    change = np.abs(sample.image.astype(float) - twin.image).mean(-1) / 255
    assert sample.mask.sum() >= LEAST_PIXELS
    assert change[sample.mask].mean() >= LEAST_CHANGE - 1 / 255
    assert sample.mask.mean() < MOST


def test_defects_stay_on_the_object_unless_they_lie_on_top() -> None:
    for seed in range(5):
        sample = generate("nut", "hole", seed)
        assert not (sample.mask & ~sample.foreground).any()
    assert any((s.mask & ~s.foreground).any() for s in (generate("nut", "thread", seed) for seed in range(20)))


@pytest.mark.parametrize("size", [48, 192])
def test_other_sizes_show_the_same_kind_of_thing(size: int) -> None:
    for class_name in ("brick", "gear"):
        sample = generate(class_name, "stain", 2, size=size)
        assert sample.image.shape == (size, size, 3)
        assert sample.mask.sum() >= LEAST_PIXELS * (size / 96) ** 2
        assert sample.foreground.mean() == pytest.approx(generate(class_name, "stain", 2).foreground.mean(), abs=0.03)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="Unknown synthetic class 'tin'; choose one of: wood"):
        generate("tin")
    with pytest.raises(ValueError, match="Unknown synthetic defect 'rust'"):
        generate("wood", "rust")
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        generate("wood", seed=-1)
    with pytest.raises(ValueError, match="at least 48 pixels, got 32"):
        generate("wood", size=32)
