"""Prompts as each window sees them (section 3.3 of the paper)."""

from typing import Literal

import torch
from torch import Tensor

Prior = Literal["identity", "zero"]


def align(prompts: Tensor, values: Tensor, local: Tensor, ridge: float = 0.1, prior: Prior = "identity") -> Tensor:
    """Return the prompts as each window sees them, (..., windows, 2, dim), not normalised (section 3.3).

    The linear map W of a window takes each of its global value tokens g to the local one l: it minimises
    sum |W g - l|^2 + ridge |W - W0|^2, W0 the identity or zero. W itself is never formed: all comes from the Gram
    matrix of the window's few tokens.

    Args:
        prompts: Prototypes, (..., 2, dim).
        values: Global value tokens at each window's positions, (..., windows, tokens, dim).
        local: Value tokens of each window's own pass, same shape.
        ridge: Weight of the prior; a great one turns the aligner off (identity). Near 0, W g = l holds exactly, which
            needs linearly independent tokens.
        prior: W0.
    """
    with torch.autocast(prompts.device.type, enabled=False):
        # neighbouring tokens are nearly parallel: with a small ridge float32 loses the fifth digit
        dtype = torch.float64 if ridge < 0.01 else torch.float32
        g, target, f = values.to(dtype), local.to(dtype), prompts.to(dtype).unsqueeze(-3)
        gram = g @ g.mT + ridge * torch.eye(g.shape[-2], dtype=dtype, device=g.device)
        # cholesky_ex: an image of NaNs gives a map of NaNs, not the loss of its whole batch
        alpha = torch.cholesky_solve(g @ f.mT, torch.linalg.cholesky_ex(gram).L)  # (..., windows, tokens, 2)
        aligned = f + alpha.mT @ (target - g) if prior == "identity" else alpha.mT @ target
        return aligned.float()
