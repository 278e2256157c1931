from typing import get_args

import pytest

from zsad.synthetic import (
    HELD_OUT_CLASSES,
    HELD_OUT_DEFECTS,
    SEEN_CLASSES,
    SEEN_DEFECTS,
    Split,
    generate,
    split_samples,
    split_specs,
)


@pytest.mark.parametrize("split", get_args(Split))
def test_split_holds_its_classes_and_defects_in_equal_shares(split: Split) -> None:
    classes = HELD_OUT_CLASSES if split in ("held-out classes", "held-out both") else SEEN_CLASSES
    defects = HELD_OUT_DEFECTS if split in ("held-out defects", "held-out both") else SEEN_DEFECTS
    n = 2 * len(classes) * len(defects)
    specs = split_specs(split, n)
    assert {spec.class_name for spec in specs} == set(classes)
    assert {spec.defect for spec in specs} == {"", *defects}
    for name in classes:
        kinds = [spec.defect for spec in specs if spec.class_name == name]
        assert kinds.count("") == len(defects)
        assert set(kinds) == {"", *defects}  # each class with each defect
    assert len({spec.seed for spec in specs}) == n


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.7, 1.0])
def test_a_share_of_each_class_is_defective_early_and_late(share: float) -> None:
    specs = split_specs("held-out both", 800, defective=share)
    for name in HELD_OUT_CLASSES:
        kinds = [spec.defect for spec in specs if spec.class_name == name]
        assert sum(map(bool, kinds)) == round(80 * share)
        assert sum(map(bool, kinds[:40])) == round(40 * share)
        if share:
            assert set(kinds) - {""} == set(HELD_OUT_DEFECTS)
    with pytest.raises(ValueError, match=r"defective is a share in \[0, 1\], got 24"):
        split_specs("seen", 120, defective=24)


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert split_specs("held-out both", 50)[:20] == split_specs("held-out both", 20)


def test_another_seed_gives_other_pictures() -> None:
    assert not {s.seed for s in split_specs("seen", 30)} & {s.seed for s in split_specs("seen", 30, seed=1)}


def test_samples_are_the_specs_drawn() -> None:
    specs, samples = split_specs("held-out both", 4), split_samples("held-out both", 4)
    for spec, sample in zip(specs, samples, strict=True):
        assert (sample.class_name, sample.defect) == (spec.class_name, spec.defect)
        assert sample.image.tobytes() == generate(*spec).image.tobytes()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="Unknown split 'test'; choose one of: seen"):
        split_specs("test", 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n=0"):
        split_specs("seen", 0)
    with pytest.raises(ValueError, match="seed=-1"):
        split_specs("seen", 4, seed=-1)
