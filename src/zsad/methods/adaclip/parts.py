"""What AdaCLIP learns, under the names of its authors' checkpoints: prompt tokens and linear layers."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Branch = Literal["VL", "V", "L", ""]
"""Which towers have prompts: image (V) and text (L)."""
PromptType = Literal["SD", "S", "D"]
"""Static prompts, dynamic ones, or their sum."""
PromptCast = Literal["none", "float16"]


class StaticPrompts(nn.Module):
    """Learned prompt tokens of a tower, (length, width) per prompted block, normal with standard deviation 0.02."""

    def __init__(self, depth: int, length: int, width: int) -> None:
        super().__init__()
        self.static_prompts = nn.ParameterList(nn.Parameter(0.02 * torch.randn(length, width)) for _ in range(depth))


class Heads(nn.Module):
    """A list of linear layers with the same input and output widths."""

    def __init__(self, number: int, width_in: int, width_out: int) -> None:
        super().__init__()
        self.head = nn.ModuleList(nn.Linear(width_in, width_out) for _ in range(number))

    def together(self, x: Tensor) -> Tensor:
        """Return every layer's output of the same vectors, (batch, width in) -> (batch, layers, width out)."""
        return torch.stack([layer(x) for layer in self.head], dim=1)


def hybrid_prompts(
    static: Sequence[Tensor | None], dynamic: Tensor | None, repeats: int = 1, cast: PromptCast = "none"
) -> list[Tensor]:
    """Return the prompt tokens of each block, static part plus dynamic part, each (rows, length, width).

    Args:
        static: Per block (length, width), or None where there is no static part.
        dynamic: (batch, length, width), the same for all blocks; None where there is no dynamic part.
        repeats: Rows per image, one after another; the text tower has as many as there are prompts.
        cast: ``"float16"`` rounds the sum, one copy per row, and through the cast's backward its gradient, as the
            released code does.
    """
    result = []
    for part in static:
        tokens = dynamic
        if part is not None:
            tokens = part[None] if dynamic is None else part + dynamic
        assert tokens is not None
        if dynamic is None:
            tokens = tokens.expand(repeats, -1, -1)
        elif repeats > 1:
            tokens = tokens.repeat_interleave(repeats, dim=0)
        result.append(tokens.half() if cast == "float16" else tokens)
    return result
