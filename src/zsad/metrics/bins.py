"""Non-decreasing maps from scores to bin numbers, fine wherever scores crowd together.

Any non-decreasing map keeps the curves exact at the bins' edges. A plain grid is useless for saturated scores and the
bits of a float are coarse near the top of a bounded range, but the sum of non-decreasing integer maps is
non-decreasing and at least as fine as each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoreBins:
    """Puts float32 scores into ``2 ** bits`` bins.

    With a declared range, 23/32 of the bins form a uniform grid and 9/64 each are fine at one end of the range (the
    leading bits of the distance to it, down to 2^-72 of the range); the bin number is the sum of all three. Without
    one, the bin number is the leading bits of the score, in the order of the numbers.

    Args:
        score_range: Lowest and highest possible score, or None if unknown.
        bits: Binary logarithm of the number of bins, 8 to 24; None takes 19 with a range, which are as a rule the finer
            ones, and 20 without.

    Raises:
        ValueError: If the range is empty or not finite, or ``bits`` is out of bounds.
    """

    score_range: tuple[float, float] | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        if self.bits is not None and not 8 <= self.bits <= 24:
            raise ValueError(f"bits must be between 8 and 24, got {self.bits}.")
        if self.score_range is not None:
            low, high = self.score_range
            if not (-1.5e38 < low < high < 1.5e38):
                raise ValueError(f"score_range must be two finite numbers, the lower first, got {self.score_range}.")

    def __len__(self) -> int:
        """Number of bins."""
        return 1 << self._bits

    @property
    def _bits(self) -> int:
        return self.bits or (20 if self.score_range is None else 19)

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the bin number of each finite float32 score, int64; scores outside the range go to its ends."""
        bits = self._bits
        if self.score_range is None:
            order = (scores + 0.0).view(torch.int32)  # + 0.0: minus zero ties with zero
            order = order ^ ((order >> 31) & 0x7FFFFFFF)  # negative numbers: larger magnitude, smaller order
            return (order >> (32 - bits)).long() + (1 << (bits - 1))
        low, high = self.score_range
        end, scale = (72 << bits) >> 9, 1.0 / (high - low)
        uniform = (1 << bits) - 2 * end
        scores = scores.clamp(low, high)
        # float32 suffices: sums and products round monotonically and are exact near the ends
        from_low, from_high = scores - low, high - scores
        number = (from_low * (scale * uniform * (1 - 2**-21))).to(torch.int32)  # whatever the rounding, < uniform
        # from 2^-72 to 1, hence 72 exponents, with bits - 9 bits of the mantissa; where they begin cancels out
        near_low, near_high = (one.mul_(scale).add_(2.0**-72).view(torch.int32) for one in (from_low, from_high))
        number += near_low.bitwise_right_shift_(32 - bits)
        number -= near_high.bitwise_right_shift_(32 - bits)
        return number.long().add_(end)

    def outside(self, scores: Tensor) -> Tensor:
        """Return how many scores lie outside the declared range."""
        nothing = torch.zeros((), dtype=torch.int64, device=scores.device)
        if self.score_range is None or not len(scores):
            return nothing
        low, high = self.score_range
        if scores.device.type == "cpu":  # nearly always there is nothing to count, and the extremes are found faster
            lowest, highest = torch.stack(scores.aminmax()).tolist()
            if low <= lowest and highest <= high:
                return nothing
        return (scores.clamp(low, high) != scores).sum()
