import numpy as np
import pytest

from zsad.synthetic import CLASSES, DEFECTS, generate, split_specs
from zsad.synthetic.generate import WIDER_CLASSES
from zsad.synthetic.splits import Split
from zsad.synthetic.wider_defects import WIDER_DEFECTS


def test_wider_classes_and_defects_are_in_no_test_set() -> None:
    assert not set(WIDER_CLASSES) & set(CLASSES)
    assert not set(WIDER_DEFECTS) & set(DEFECTS)
    splits: tuple[Split, ...] = ("seen", "held-out classes", "held-out defects", "held-out both")
    for split in splits:
        specs = split_specs(split, 400)
        assert not {one.class_name for one in specs} & set(WIDER_CLASSES)
        assert not {one.defect for one in specs} & set(WIDER_DEFECTS)


@pytest.mark.parametrize("class_name", WIDER_CLASSES)
def test_a_wider_class_is_never_twice_the_same_and_its_twin_differs_at_the_defect_only(class_name: str) -> None:
    assert not np.array_equal(generate(class_name, "", 1).image, generate(class_name, "", 2).image)
    for number, defect in enumerate(WIDER_DEFECTS):
        damaged = generate(class_name, defect, number, with_camera=False)
        twin = generate(class_name, "", number, with_camera=False)
        assert damaged.mask.sum() >= 12
        change = np.abs(damaged.image.astype(int) - twin.image).mean(-1)
        assert change[damaged.mask].mean() > 10
        far = np.ones_like(damaged.mask)
        rows, columns = np.nonzero(damaged.mask)
        far[max(rows.min() - 2, 0) : rows.max() + 3, max(columns.min() - 2, 0) : columns.max() + 3] = False
        assert not change[far].any()
