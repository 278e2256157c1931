"""Training of maps by a focal and a dice loss, as five papers have it."""

from typing import Any

from torch import Tensor

from zsad.clip import Clip
from zsad.functional import losses
from zsad.methods.trained import TrainedMethod


class PixelLosses(TrainedMethod):
    """A trained method whose maps meet :func:`~zsad.functional.losses.focal` and :func:`~zsad.functional.losses.dice`.

    Args:
        backbone: Backbone name or a loaded one.
        focal_gamma: Exponent of the focal loss.
        focal_smooth: Small number in the focal loss.
        dice_smooth: Added to numerator and denominator of the dice losses.
        **kwargs: Options of :class:`~zsad.methods.trained.TrainedMethod`.
    """

    def __init__(
        self,
        backbone: str | Clip,
        focal_gamma: float = 2.0,
        focal_smooth: float = 1e-5,
        dice_smooth: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.focal_gamma, self.focal_smooth, self.dice_smooth = focal_gamma, focal_smooth, dice_smooth

    def focal(self, probs: Tensor, mask: Tensor) -> Tensor:
        """Return the focal loss of both probabilities (batch, 2, height, width) and a mask (batch, height, width)."""
        return losses.focal(probs, mask, self.focal_gamma, self.focal_smooth)

    def dice(self, prob: Tensor, mask: Tensor) -> Tensor:
        """Return the dice loss of one probability and its mask, both (batch, height, width)."""
        return losses.dice(prob, mask, self.dice_smooth)
