"""Training pictures of the mini CLIP: a pool in memory that is renewed all the time, and their augmentation."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.synthetic import SEEN_CLASSES, SEEN_DEFECTS, TEXTURES, SyntheticSample, generate
from zsad.types import CLIP_MEAN, CLIP_STD

SIZE, PATCH = 96, 12
GRID = SIZE // PATCH
WEIGHTS = np.array([4.0 if name in ("pattern", "assembly") else 1.0 for name in SEEN_CLASSES])
"""The two randomly constructed classes come four times as often: their pictures differ the most."""


class Pictures(NamedTuple):
    """A batch of training pictures."""

    image: Tensor
    """(batch, 3, 96, 96), normalised."""
    patch: Tensor
    """(batch, patches) int8: 1 defective, 0 normal, -1 in between."""
    facts: Tensor
    """(batch, 4) int64: class, state, defect or -1, whether a texture."""


class Pool:
    """Pictures in memory; each batch replaces the oldest few by fresh ones.

    Args:
        size: Number of pictures kept.
        stream: Seeds count up from ``stream * 10**9``.
        fresh: Pictures drawn anew per batch.
        first: Pictures drawn before the first batch; None for all. The pool grows from there.
        patch: Side of a patch in pixels.
    """

    def __init__(self, size: int, stream: int, fresh: int, first: int | None = None, patch: int = PATCH) -> None:
        self.rng = np.random.default_rng((77, stream))
        self.next_seed, self.fresh, self.oldest = stream * 10**9, fresh, 0
        self.image = np.zeros((size, SIZE, SIZE, 3), np.uint8)
        self.side, self.grid = patch, SIZE // patch
        self.patch = np.zeros((size, self.grid, self.grid), np.int8)
        self.facts = np.zeros((size, 4), np.int64)
        self.filled = size if first is None else min(first, size)
        for place in range(self.filled):
            self._draw(place)
        self.oldest = self.filled % size

    def _draw(self, place: int) -> None:
        number = int(self.rng.choice(len(SEEN_CLASSES), p=WEIGHTS / WEIGHTS.sum()))
        defect = int(self.rng.integers(len(SEEN_DEFECTS))) if self.rng.random() < 0.65 else -1
        name = SEEN_CLASSES[number]
        sample = generate(name, "" if defect < 0 else list(SEEN_DEFECTS)[defect], self.next_seed)
        self.next_seed += 1
        self.store(place, sample, (number, defect >= 0, defect, name in TEXTURES))

    def store(self, place: int, sample: SyntheticSample, facts: tuple[int, bool, int, bool]) -> None:
        """Keep a picture, the states of its patches and what is known of it."""
        share = sample.mask.reshape(self.grid, self.side, self.grid, self.side).mean((1, 3))
        self.image[place] = sample.image
        self.patch[place] = np.where(share > 0.12, 1, np.where(share > 0, -1, 0))
        self.facts[place] = facts

    def batch(self, n: int) -> Pictures:
        """Return ``n`` pictures, turned by quarters, mirrored, and 40% of them with permuted colour channels."""
        for _ in range(self.fresh):
            self._draw(self.oldest)
            self.filled = max(self.filled, self.oldest + 1)
            self.oldest = (self.oldest + 1) % len(self.image)
        chosen = self.rng.choice(self.filled, n, replace=False)
        images, patches = [], []
        for index in chosen:
            image, patch, quarter = self.image[index], self.patch[index], int(self.rng.integers(4))
            image, patch = np.rot90(image, quarter), np.rot90(patch, quarter)
            if self.rng.random() < 0.5:
                image, patch = image[:, ::-1], patch[:, ::-1]
            if self.rng.random() < 0.4:
                image = image[..., self.rng.permutation(3)]
            images.append(image.transpose(2, 0, 1))
            patches.append(patch.ravel())
        return Pictures(
            normalise(np.stack(images)), torch.from_numpy(np.stack(patches)), torch.from_numpy(self.facts[chosen])
        )


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """Return float pictures with CLIP's own mean and deviation taken out, (batch, 3, 96, 96)."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (torch.from_numpy(images).float() / 255 - mean) / std
