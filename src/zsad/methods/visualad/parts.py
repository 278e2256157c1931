"""The learned parts of VisualAD, under the authors' parameter names: cross-attention (SCA) and recalibration (SAF).

Dropout is asked for by argument: predictions never drop anything, training always does, whatever mode the module is in.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Add evidence from one block's patches to the anomaly and the normal token (SCA), the same weights for both.

    A few learned anchors attend to the patches; a gate made from each token says how much of each anchor it takes. The
    attention does not depend on the tokens, so it is computed once for both.

    Args:
        width: Width of the image tokens.
        anchors: Number of learned queries.
        patches: Rows of the anchors' position table, hence the greatest number of patches.
        dropout: Rate on the attention and on what is added; each token draws its own masks.
        res_scale: Initial factor of what is added.
    """

    def __init__(self, width: int, anchors: int, patches: int, dropout: float, res_scale: float = 0.01) -> None:
        super().__init__()
        self.anchor_queries = nn.Parameter(0.02 * torch.randn(anchors, width))
        self.pos_encoding = nn.Parameter(0.02 * torch.randn(1, patches, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_norm, self.k_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gate = nn.Sequential(nn.Linear(width, anchors))
        self.out_proj = nn.Linear(width, width)
        self.res_scale = nn.Parameter(torch.full((1,), res_scale))
        self.dropout = dropout
        _xavier((self.q_proj, self.k_proj, self.v_proj, self.out_proj))

    def forward(self, patches: Tensor, tokens: Tensor, drop: bool = False) -> Tensor:
        """Return the tokens with evidence added, (batch, 2, width).

        Args:
            patches: One block's normalised patches, (batch, patches, width), before recalibration.
            tokens: Anomaly and normal token, (batch, 2, width).
            drop: Whether dropout acts.
        """
        queries = self.q_norm(self.q_proj(self.anchor_queries))
        # positions by reading order: row 38 of the table is another place on another grid, as in the released code
        keys = self.k_norm(self.k_proj(patches + self.pos_encoding[:, : patches.shape[1]]))
        attention = (queries @ keys.transpose(1, 2) / patches.shape[-1] ** 0.5).softmax(dim=-1)  # (b, anchors, patches)
        if drop and self.dropout > 0:
            attention = torch.stack([F.dropout(attention, self.dropout) for _ in range(tokens.shape[1])], dim=1)
            evidence = self.v_proj(attention @ patches[:, None])  # (b, 2, anchors, width)
        else:
            # projected after the sum over patches: exact, since there is no bias, and few rows instead of all patches
            evidence = self.v_proj(attention @ patches)[:, None]
        gate = self.gate(tokens).sigmoid()[..., None]  # (b, 2, anchors, 1)
        added = self.out_proj((gate * evidence).sum(dim=2))
        return tokens + self.res_scale * F.dropout(added, self.dropout, drop)


class Recalibration(nn.Module):
    """Change one block's patches by a small MLP (SAF): no residual, no norm, exact GELU.

    Args:
        width: Width of the image tokens.
        hidden: Width in between.
        dropout: Rate after the activation and after the second layer.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        first, second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        _xavier((first, second))
        self.mlp = nn.ModuleDict({"0": first, "3": second})

    def forward(self, patches: Tensor, drop: bool = False) -> Tensor:
        """Return patches (batch, patches, width) recalibrated; ``drop``: whether dropout acts."""
        inner = F.dropout(F.gelu(self.mlp["0"](patches)), self.dropout, drop)
        return F.dropout(self.mlp["3"](inner), self.dropout, drop)


def _xavier(layers: Iterable[nn.Linear]) -> None:
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class Seen(NamedTuple):
    """What a pass through the tower and the learned parts gives."""

    special: Tensor
    """Anomaly and normal token after the tower's last block, (batch, 2, width)."""
    patches: dict[int, Tensor]
    """Block -> normalised patches, (batch, patches, width)."""
    tokens: dict[int, Tensor]
    """Block -> both tokens after its cross-attention, (batch, 2, width)."""
    recalibrated: dict[int, Tensor]
    """Block -> patches after its recalibration, (batch, patches, width)."""
    grids: dict[int, Tensor]
    """Block -> cosine with the anomaly token minus cosine with the normal one, (batch, rows, columns), in [-2, 2]."""
