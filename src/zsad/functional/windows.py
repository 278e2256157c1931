"""Sliding windows of patches: their tokens, and harmonic means of their scores (WinCLIP, ALFA)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

FLOOR = 1e-8
"""Scores enter a harmonic mean no smaller than this, else rounding below zero gives infinities and signs."""


def window_indices(grid: tuple[int, int], scale: int, device: torch.device | None = None) -> Tensor:
    """Return the patches of every window, (windows, scale * scale) int64 indices into the row-major grid.

    Windows slide by one patch and are listed row by row; so are the patches of each.

    Args:
        grid: Rows and columns of patches.
        scale: Side of a window in patches.
        device: Where the indices are made.

    Raises:
        ValueError: If the window does not fit into the grid.
    """
    rows, columns = grid
    if not 1 <= scale <= min(grid):
        raise ValueError(f"A window of {scale} x {scale} patches does not fit into a grid of {rows} x {columns}.")
    patches = torch.arange(rows * columns, device=device).view(rows, columns)
    windows = patches.unfold(0, scale, 1).unfold(1, scale, 1)  # (rows - scale + 1, columns - scale + 1, scale, scale)
    return windows.reshape(-1, scale * scale)


def cover(grid: tuple[int, int], scale: int, device: torch.device | None = None) -> Tensor:
    """Return which window covers which patch, (windows, rows * columns) float32 of zeros and ones."""
    index = window_indices(grid, scale, device)
    return torch.zeros(len(index), grid[0] * grid[1], device=device).scatter_(1, index, 1.0)


def window_tokens(embedded: Tensor, index: Tensor, chunk: int | None = None) -> Iterator[Tensor]:
    """Yield every window of every image as a short sequence, (sequences, 1 + scale * scale, width).

    A window keeps the class token and its own patches and drops all others. Sequences come image by image, then window
    by window, so the concatenated results of a batch unflatten to (batch, windows, ...). Tokens are along axis 1 as in
    all of zsad: attention must stay inside a window.

    Args:
        embedded: (batch, 1 + patches, width), class token first; with positions, before the first LayerNorm.
        index: :func:`window_indices` of the grid.
        chunk: Greatest number of sequences at a time, bounds the memory; None for all at once.

    Raises:
        ValueError: If ``chunk`` is less than 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 window, got {chunk}; None takes all windows at once.")
    class_token = index.new_zeros(len(index), 1)
    tokens = torch.cat([class_token, index + 1], dim=1)
    if chunk is None:
        yield embedded[:, tokens].flatten(0, 1)  # nothing here depends on the number of images: it can be exported
        return
    sequences = torch.arange(len(embedded) * len(index), device=index.device)
    for part in sequences.split(chunk):
        image, window = part // len(index), part % len(index)
        yield embedded[image[:, None], tokens[window]]


def harmonic_mean(scores: Sequence[Tensor]) -> Tensor:
    """Return the elementwise harmonic mean of broadcastable tensors; scores below 1e-8 count as 1e-8."""
    inverse = sum(1 / score.clamp_min(FLOOR) for score in scores)
    return len(scores) / inverse  # type: ignore[return-value]  # sum() starts at 0 for the type checker


def window_map(scores: Tensor, grid: tuple[int, int], scale: int) -> Tensor:
    """Return for each patch the harmonic mean over the windows that cover it, (batch, rows, columns).

    WinCLIP (arXiv 2303.14814), section 4.2. Scores below 1e-8 count as 1e-8.

    Args:
        scores: One score per window, (batch, windows), in the order of :func:`window_indices`.
        grid: Rows and columns of patches.
        scale: Side of a window in patches.
    """
    with torch.autocast(scores.device.type, enabled=False):
        covered = cover(grid, scale, scores.device).to(scores.dtype)
        mean = covered.sum(dim=0) / (1 / scores.clamp_min(FLOOR) @ covered)
    return mean.unflatten(1, grid)
