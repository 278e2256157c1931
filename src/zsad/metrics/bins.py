"""Non-decreasing maps from scores to bin numbers, fine wherever scores crowd together.

Any non-decreasing map keeps the curves exact at the bins' edges. A plain grid is useless for saturated scores and the
bits of a float are coarse near the top of a bounded range, but the sum of two non-decreasing integer maps is
non-decreasing and at least as fine as either.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoreBins:
    """Puts float32 scores into ``2 ** bits`` bins.

    With a declared range, half of the bins form a uniform grid and the other half are fine at both ends of the range
    (the leading bits of the distance to the nearer end); the bin number is the sum of the two. Without one, the bin
    number is the leading bits of the score, in the order of the numbers.

    Args:
        score_range: Lowest and highest possible score, or None if unknown.
        bits: Binary logarithm of the number of bins, 8 to 24.

    Raises:
        ValueError: If the range is empty or not finite, or ``bits`` is out of bounds.
    """

    score_range: tuple[float, float] | None = None
    bits: int = 20

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= 24:
            raise ValueError(f"bits must be between 8 and 24, got {self.bits}.")
        if self.score_range is not None:
            low, high = self.score_range
            if not (-1.5e38 < low < high < 1.5e38):
                raise ValueError(f"score_range must be two finite numbers, the lower first, got {self.score_range}.")

    def __len__(self) -> int:
        """Number of bins."""
        return 1 << self.bits

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the bin number of each finite float32 score, int64; scores outside the range go to its ends."""
        if self.score_range is None:
            order = (scores + 0.0).view(torch.int32)  # + 0.0: minus zero ties with zero
            order = order ^ ((order >> 31) & 0x7FFFFFFF)  # negative numbers: larger magnitude, smaller order
            return (order >> (32 - self.bits)).long() + (1 << (self.bits - 1))
        low, high = self.score_range
        half = 1 << (self.bits - 1)
        scores = scores.clamp(low, high)
        # float32 suffices: subtraction and product round monotonically and are exact near the ends; abs: no -0.0
        from_low, from_high = (scores - low).abs_(), (high - scores).abs_()
        uniform = (from_low * (half / (high - low))).clamp_max_(half - 1).to(torch.int32)
        nearer = torch.minimum(from_low, from_high).mul_(1.0 / (high - low)).clamp_max_(0.5)
        ends = nearer.view(torch.int32) >> (32 - self.bits)  # at most 126 / 128 of a quarter of the bins
        upper = ~(from_low.sub_(from_high).view(torch.int32) >> 31)  # all bits set in the upper half of the range
        ends ^= upper & (half - 1)  # mirrored there: half - 1 - ends
        return uniform.add_(ends).long()

    def outside(self, scores: Tensor) -> Tensor:
        """Return how many scores lie outside the declared range."""
        if self.score_range is None:
            return torch.zeros((), dtype=torch.int64, device=scores.device)
        low, high = self.score_range
        return (scores.clamp(low, high) != scores).sum()
