"""One photo per part."""

import random

import pytest

from zsad.decision.grouping import one_per_group, split

PATHS = [f"good/part{part:02d}_photo{photo}.png" for part in range(20) for photo in range(5)]


def test_one_photo_of_each_part_by_seed_alone() -> None:
    chosen = one_per_group(PATHS, r"part(\d+)", 3)
    assert [path[9:11] for path in chosen] == [f"{part:02d}" for part in range(20)]
    shuffled = random.Random(0).sample(PATHS, len(PATHS))
    assert sorted(one_per_group(shuffled, r"part(\d+)", 3)) == sorted(chosen)
    assert one_per_group(PATHS, r"part(\d+)", 4) != chosen
    assert len({path[-5] for path in chosen}) > 1


@pytest.mark.parametrize(("share", "number"), [(0.5, 50), (0.3, 30), (0.001, 1), (0.999, 99)])
def test_a_split_depends_on_the_seed_and_not_on_the_order(share: float, number: int) -> None:
    first, rest = split(PATHS, share, 3)
    assert len(first) == number
    assert sorted([*first, *rest]) == PATHS
    shuffled = random.Random(0).sample(PATHS, len(PATHS))
    again = split(shuffled, share, 3)
    assert set(again[0]) == set(first)
    assert again[1] == [path for path in shuffled if path not in first]
    assert len({tuple(split(PATHS, share, seed)[0]) for seed in range(9)}) > 1


def test_splits_that_are_none() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        split(PATHS, 1)
    with pytest.raises(ValueError, match="at least two images, got 1"):
        split(PATHS[:1], 0.5)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"does not match 'good/other\.png'"):
        one_per_group([*PATHS, "good/other.png"], r"part(\d+)")
    with pytest.raises(ValueError, match="must be a regular expression"):
        one_per_group(PATHS, "(")
