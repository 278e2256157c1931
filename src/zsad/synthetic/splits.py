"""The four test sets: which picture is which, as a list that can be opened at any place."""

from typing import Literal, NamedTuple, get_args

from zsad.synthetic.defects import HELD_OUT_DEFECTS, SEEN_DEFECTS
from zsad.synthetic.generate import HELD_OUT_CLASSES, SEEN_CLASSES, SyntheticSample, generate

Split = Literal["seen", "held-out classes", "held-out defects", "held-out both"]
"""What the mini CLIP has seen: classes and defects, only the defects, only the classes, neither."""

TEST_SEEDS = 10**12
"""Pretraining uses smaller seeds only, so that no test picture was trained on."""


class SampleSpec(NamedTuple):
    """One picture before it is drawn; ``generate(*spec)`` draws it."""

    class_name: str
    """One of the classes."""
    defect: str
    """One of the defects; "" for a normal picture."""
    seed: int
    """The picture's own seed."""


def split_specs(split: Split, n: int, seed: int = 0, defective: float = 0.5) -> list[SampleSpec]:
    """Return the ``n`` pictures of a test set: classes in turn, rounds normal or defective, defects in turn.

    Args:
        split: Which classes and defects, see :data:`Split`.
        n: Number of pictures. A multiple of twice the number of classes gives as many normal as defective ones.
        seed: Another seed gives other pictures of the same kind.
        defective: Share of the rounds that are defective, at least 0 and at most 1; rounds of both kinds are mixed.

    Raises:
        ValueError: If the split is unknown or ``n``, ``seed`` or ``defective`` out of range.
    """
    if split not in get_args(Split):
        raise ValueError(f"Unknown split {split!r}; choose one of: {', '.join(get_args(Split))}.")
    if n < 1 or not 0 <= seed < 10**6:
        raise ValueError(f"n must be at least 1 and seed in 0..999999, got n={n}, seed={seed}.")
    if not 0 <= defective <= 1:
        raise ValueError(f"defective is a share in [0, 1], got {defective}.")
    classes = HELD_OUT_CLASSES if split in ("held-out classes", "held-out both") else SEEN_CLASSES
    defects = tuple(HELD_OUT_DEFECTS if split in ("held-out defects", "held-out both") else SEEN_DEFECTS)
    specs = []
    for index in range(n):
        turn, place = divmod(index, len(classes))
        before, after = (int(defective * rounds + 1e-9) for rounds in (turn, turn + 1))
        defect = defects[(before + place) % len(defects)] if after > before else ""
        specs.append(SampleSpec(classes[place], defect, TEST_SEEDS + 10**6 * seed + index))
    return specs


def split_samples(split: Split, n: int, seed: int = 0) -> list[SyntheticSample]:
    """Return the pictures of :func:`split_specs`, drawn (about 6 ms each on one core)."""
    return [generate(*spec) for spec in split_specs(split, n, seed)]
