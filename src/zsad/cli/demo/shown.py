"""Which of the test pictures the demo's page shows."""

from collections.abc import Sequence

from zsad.synthetic import SyntheticSample

_SHOWN_NORMAL = 4


def chosen(samples: Sequence[SyntheticSample]) -> list[int]:
    """Return which pictures are shown: the first defective one of each class, then the first normal ones."""
    first: dict[tuple[str, bool], int] = {}
    for number, sample in enumerate(samples):
        first.setdefault((sample.class_name, bool(sample.defect)), number)
    defective = [number for (_, damaged), number in first.items() if damaged]
    return sorted(defective) + sorted(number for (_, damaged), number in first.items() if not damaged)[:_SHOWN_NORMAL]
