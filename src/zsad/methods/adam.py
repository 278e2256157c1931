"""Training by Adam at a constant rate, as the released scripts of several papers have it."""

from typing import Any

import torch

from zsad.clip import Clip
from zsad.methods.trained import TrainedMethod


class AdamTrained(TrainedMethod):
    """A trained method with the optimiser that three released codes share; a child sets :attr:`lr`.

    Args:
        backbone: Backbone name or a loaded one.
        betas: Averaging factors of Adam; the released codes have 0.5.
        eps: Small number in Adam's denominator.
        weight_decay: L2 penalty of Adam.
        **kwargs: Options of :class:`~zsad.methods.trained.TrainedMethod`.
    """

    lr: float
    """Learning rate."""

    def __init__(
        self,
        backbone: str | Clip,
        betas: tuple[float, float] = (0.5, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.adam: dict[str, Any] = {"betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam on all that is learned."""
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(learned, lr=self.lr, **self.adam)
