"""Mutual scoring: how far each patch is from the most similar patches of the other images (MuSc, section 3.2).

Features have unit length, so a distance is sqrt(2 - 2 cosine), and one product of two images' features serves both.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zsad.methods.musc.aggregation import Grid

Features = Callable[[int, int], Tensor]
"""(first, stop) -> unit-length float features of these images, (stop - first, patches, width)."""
Tick = Callable[[float], None]
"""Told the share of the work that is done, in [0, 1]."""


def interval_bounds(interval: tuple[float, float], others: int) -> tuple[int, int]:
    """Return which of the sorted distances to the other images are averaged, as a half-open range.

    An end below 1 is a share of the other images, rounded down, from 1 on a count; ends in the wrong order are
    swapped. At least one image is always in the range (the released code has none below 5 images, and NaN).

    Args:
        interval: Both ends, not negative.
        others: Number of images that an image is compared with.

    Raises:
        ValueError: If there is no other image.
    """
    if others < 1:
        raise ValueError("Mutual scoring compares images with each other: it needs at least 2, got 1.")
    low, high = sorted(int(end * others) if end < 1 else int(end) for end in interval)
    low = min(low, others - 1)
    return low, min(max(high, low + 1), others)


def interval_mean(cosines: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Return the mean of the distances in a range of the sorted ones, (...) from cosines (..., images)."""
    best = cosines.topk(bounds[1], dim=-1).values[..., bounds[0] :]
    return (2 - 2 * best).clamp_min(0).sqrt().mean(dim=-1)


def nearest_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of each patch with the most similar patch of each image, (images, patches, others) float32.

    Args:
        a: Unit-length features, (images, patches, width).
        b: Unit-length features of the other images, (others, their patches, width).
    """
    return _products(a, b).amax(dim=3)


def nearest_both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return :func:`nearest_cosines` of a in b and of b in a, from one product."""
    products = _products(a, b)
    return products.amax(dim=3), products.amax(dim=1).permute(1, 2, 0)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of all pairs of patches, (images, patches, others, their patches), summed in float32."""
    left, right = a.flatten(0, 1), b.flatten(0, 1).T
    half = left.dtype == torch.float16  # on CUDA only
    flat = torch.mm(left, right, out_dtype=torch.float32) if half else left @ right
    return flat.view(len(a), a.shape[1], len(b), b.shape[1])


def nearest_within(a: Tensor, b: Tensor, grid: Grid, search: int) -> tuple[Tensor, Tensor]:
    """Return :func:`nearest_both` with only those patches compared that lie near each other, for aligned images.

    Args:
        a: Unit-length features, (images, patches, width), row by row.
        b: Unit-length features of the other images, of the same grid.
        grid: Rows and columns of patches.
        search: Greatest distance in rows and in columns; 0 compares equal places only.
    """
    x, y = a.unflatten(1, grid).float(), b.unflatten(1, grid).float()
    there = x.new_full((len(a), *grid, len(b)), -torch.inf)
    back = x.new_full((len(b), *grid, len(a)), -torch.inf)
    vertical, horizontal = (min(search, side - 1) for side in grid)
    for down in range(-vertical, vertical + 1):
        for right in range(-horizontal, horizontal + 1):
            here = (slice(None), _kept(grid[0], -down), _kept(grid[1], -right))
            moved = (slice(None), _kept(grid[0], down), _kept(grid[1], right))
            cosines = torch.einsum("iyxc,jyxc->iyxj", x[here], y[moved])
            there[here] = torch.maximum(there[here], cosines)
            back[moved] = torch.maximum(back[moved], cosines.permute(3, 1, 2, 0))
    return there.flatten(1, 2), back.flatten(1, 2)


def _kept(length: int, shift: int) -> slice:
    """The places of an axis that still have a partner after a shift."""
    return slice(max(0, shift), length + min(0, shift))


def tile_size(patches: int) -> int:
    """Return the number of images in a tile of the product; it belongs to what a result's last digit depends on."""
    return max(1, 2048 // patches)


def cosine_table(
    rows: Tensor, features: Features, number: int, grid: Grid | None = None, search: int | None = None
) -> Tensor:
    """Return the cosine of each patch with the most similar one of each of many images, (images, patches, number).

    Args:
        rows: Unit-length features, (images, patches, width).
        features: Of the ``number`` images.
        number: How many images there are to compare with.
        grid: Rows and columns of patches; for ``search`` only.
        search: As for :func:`nearest_within`; None compares all places.
    """
    table = torch.empty((*rows.shape[:2], number), device=rows.device)
    step, own = tile_size(rows.shape[1]), tile_size(rows.shape[1])
    for start in range(0, number, step):
        part = features(start, min(start + step, number))
        for first in range(0, len(rows), own):
            some = rows[first : first + own]
            if search is None or grid is None:
                found = nearest_cosines(some, part)
            else:
                found = nearest_within(some, part, grid, search)[0]
            table[first : first + own, :, start : start + step] = found
    return table


def mutual_scores(
    features: Features | Tensor,
    interval: tuple[float, float] = (0.0, 0.3),
    *,
    number: int | None = None,
    columns: Sequence[Tensor] | None = None,
    grid: Grid | None = None,
    search: int | None = None,
    memory: float = 4e9,
    tick: Tick = lambda share: None,
) -> Tensor:
    """Return how unlike the other images each patch of each image is, (references, images, patches) float32.

    An image is never compared with itself. While the table of nearest cosines fits into ``memory``, each product of
    two images is computed once for both; else rows of images are computed one after another.

    Args:
        features: Unit-length features, (images, patches, width), or a function that returns some images'.
        interval: Which part of the sorted distances is averaged; see :func:`interval_bounds`.
        number: Number of images, where ``features`` is a function.
        columns: Sets of images, as indices, to compare with: one result each. All images by default.
        grid: Rows and columns of patches; for ``search`` only.
        search: As for :func:`nearest_within`; None compares all places.
        memory: Bytes that tables and features of a row may take.
        tick: Told about progress.

    Raises:
        ValueError: If a set leaves an image without another one.
    """
    if isinstance(features, Tensor):
        stored = features
        number, features = len(stored), lambda first, stop: stored[first:stop]
    assert number is not None
    sample = features(0, 1)
    patches, width = sample.shape[1:]
    columns = [torch.arange(number)] if columns is None else list(columns)
    result = torch.empty((len(columns), number, patches), device=sample.device)
    if 4 * number * number * patches <= memory:
        result[:] = _means(_symmetric(features, number, patches, sample, grid, search, tick), 0, interval, columns)
        return result
    block = max(1, int(memory / (4 * patches * (width + number))))
    for first in range(0, number, block):
        rows = features(first, min(first + block, number))
        table = cosine_table(rows, features, number, grid, search)
        own = torch.arange(len(rows), device=table.device)
        table[own, :, first + own] = -torch.inf
        result[:, first : first + block] = _means(table, first, interval, columns)
        tick(min(1.0, (first + block) / number))
    return result


def _symmetric(
    features: Features, number: int, patches: int, like: Tensor, grid: Grid | None, search: int | None, tick: Tick
) -> Tensor:
    """The whole table, own entries at -infinity: each pair of tiles once."""
    table = torch.full((number, patches, number), -torch.inf, device=like.device)
    step = tile_size(patches)
    starts = range(0, number, step)
    done, pairs = 0, len(starts) * (len(starts) + 1) // 2
    for first in starts:
        rows = slice(first, min(first + step, number))
        left = features(rows.start, rows.stop)
        for second in range(first, number, step):
            done += 1
            if step == 1 and second == first:  # nothing but the image with itself
                tick(done / pairs)
                continue
            other = slice(second, min(second + step, number))
            right = left if second == first else features(other.start, other.stop)
            if search is None or grid is None:
                there, back = nearest_both(left, right)
            else:
                there, back = nearest_within(left, right, grid, search)
            table[rows, :, other] = there
            table[other, :, rows] = back
            tick(done / pairs)
    own = torch.arange(number, device=table.device)
    table[own, :, own] = -torch.inf
    return table


def _means(table: Tensor, first: int, interval: tuple[float, float], columns: Sequence[Tensor]) -> Tensor:
    """Interval means of rows ``first`` and following over each set of columns, (sets, rows, patches)."""
    rows = torch.arange(first, first + len(table))
    result = torch.empty((len(columns), *table.shape[:2]), device=table.device)
    for place, chosen in enumerate(columns):
        whole = len(chosen) == table.shape[2]
        inside = torch.isin(rows, chosen).to(table.device)
        for member, others in ((inside, len(chosen) - 1), (~inside, len(chosen))):
            if bool(member.any()):
                some = table if bool(member.all()) else table[member]
                some = some if whole else some[..., chosen.to(table.device)]
                result[place, member] = interval_mean(some, interval_bounds(interval, others))
    return result
