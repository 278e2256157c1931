"""MVFA's learned part, under the authors' parameter names, and its pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zsad.clip.blocks import Step, full, whole

Branch = Literal["seg", "det"]


class Adapter(nn.Module):
    """A bottleneck of two matrices without bias, LeakyReLU after both.

    Args:
        width: Width of the image tokens.
        bottleneck: Width in between, that of the joint embedding.
        slope: Of LeakyReLU for negative values.
    """

    def __init__(self, width: int, bottleneck: int, slope: float) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(width, bottleneck, bias=False), nn.LeakyReLU(slope))
        self.fc2 = nn.Sequential(nn.Linear(bottleneck, width, bias=False), nn.LeakyReLU(slope))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bottleneck's activation (..., bottleneck) and the output (..., width)."""
        inner = self.fc1(x)
        return inner, self.fc2(inner)


class Adapted(NamedTuple):
    """What the adapted tower gives."""

    state: Tensor
    """The mixed stream after the last block, (batch, 1 + patches, width)."""
    tokens: dict[Branch, dict[int, Tensor]]
    """Branch -> block -> bottleneck activations, (batch, 1 + patches, bottleneck), class token first."""


def bottlenecks(
    adapters: Mapping[Branch, Sequence[Any]],
    layers: Sequence[int],
    share: float,
    kept: Mapping[Branch, dict[int, Tensor]],
    done: int = 0,
) -> Step:
    """Return the step that mixes the adapters' outputs into the stream after some blocks and keeps their bottlenecks.

    The stream keeps ``1 - 2 * share``; the class token takes part.

    Args:
        adapters: Branch -> one adapter per entry of ``layers``.
        layers: Block numbers, rising.
        share: Of each of the two outputs.
        kept: Branch -> filled with block -> bottlenecks, (batch, tokens, bottleneck).
        done: The state that enters is that after this block's own computation: blocks up to it are passed over.
    """
    places = {number: place for place, number in enumerate(layers)}

    def step(number: int, block: nn.Module, x: Tensor) -> Tensor:
        if number > done:
            x = whole(block, x)
        if number not in places:
            return x
        wide = full(x)  # adapters are learned, in float32
        mixed = (1 - 2 * share) * wide
        for branch, modules in adapters.items():
            kept[branch][number], out = modules[places[number]](wide)
            mixed = mixed + share * out
        return mixed.to(x.dtype)

    return step


def minmax(values: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Return values brought to [0, 1] by their extremes; 0 where these are equal.

    Args:
        values: Any shape.
        low: In place of the least value.
        high: In place of the greatest value.
    """
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
