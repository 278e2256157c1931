"""Connected parts of a mask: scikit-image's labels, or the same from numpy alone where it is not installed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice]


def components(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the number of each pixel's part from 1, 0 outside, (height, width); diagonal neighbours touch.

    Parts are numbered in the order in which their first pixels come, row by row.
    """
    try:
        from skimage.measure import label
    except ImportError:
        return by_rows(mask)
    return np.asarray(label(mask, connectivity=2))


def by_rows(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return what :func:`components` does, in numpy: runs of pixels are joined with those of the row above."""
    height, width = mask.shape
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]  # row by row, so the n-th end belongs to the n-th start
    parent = np.arange(len(rows))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = int(parent[run])
        return run

    first = np.searchsorted(rows, np.arange(height + 1))  # the runs of a row
    for row in range(1, height):
        above, below = first[row - 1], first[row]
        while above < first[row] and below < first[row + 1]:
            if starts[above] <= ends[below] and starts[below] <= ends[above]:  # corners touch as well
                one, other = root(above), root(below)
                parent[max(one, other)] = min(one, other)
            if ends[above] < ends[below]:
                above += 1
            else:
                below += 1
    roots = np.array([root(run) for run in range(len(rows))], dtype=np.int64)
    numbers = np.unique(roots, return_inverse=True)[1] + 1 if len(roots) else roots
    marks = np.zeros((height, width + 1), dtype=np.int64)
    np.add.at(marks, (rows, starts), numbers)
    np.add.at(marks, (rows, ends), -numbers)
    return marks.cumsum(axis=1)[:, :width]


def boxes(labels: NDArray[Any]) -> list[Box]:
    """Return the rows and columns that each part covers, in the order of their numbers."""
    rows, columns = np.nonzero(labels)
    numbers = labels[rows, columns] - 1
    count = int(labels.max(initial=0))
    low, high = np.full((2, count), np.iinfo(np.int64).max), np.full((2, count), -1)
    for axis, places in enumerate((rows, columns)):
        np.minimum.at(low[axis], numbers, places)
        np.maximum.at(high[axis], numbers, places)
    return [(slice(a, b + 1), slice(c, d + 1)) for (a, c), (b, d) in zip(low.T.tolist(), high.T.tolist(), strict=True)]
