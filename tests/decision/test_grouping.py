"""One photo per part."""

import random

import pytest

from zsad.decision.grouping import one_per_group

PATHS = [f"good/part{part:02d}_photo{photo}.png" for part in range(20) for photo in range(5)]


def test_one_photo_of_each_part_by_seed_alone() -> None:
    chosen = one_per_group(PATHS, r"part(\d+)", 3)
    assert [path[9:11] for path in chosen] == [f"{part:02d}" for part in range(20)]
    shuffled = random.Random(0).sample(PATHS, len(PATHS))
    assert sorted(one_per_group(shuffled, r"part(\d+)", 3)) == sorted(chosen)
    assert one_per_group(PATHS, r"part(\d+)", 4) != chosen
    assert len({path[-5] for path in chosen}) > 1


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"does not match 'good/other\.png'"):
        one_per_group([*PATHS, "good/other.png"], r"part(\d+)")
    with pytest.raises(ValueError, match="must be a regular expression"):
        one_per_group(PATHS, "(")
