"""The order of training images: by seed and epoch alone."""

from collections.abc import Sized

import torch
from torch.utils.data import RandomSampler


class EpochSampler(RandomSampler):
    """Shuffle by seed and epoch alone, so that an interrupted fit continues with the order it would have had.

    Lightning calls :meth:`set_epoch` before each epoch.

    Args:
        data_source: Anything with a length.
        seed: Any integer >= 0.
    """

    def __init__(self, data_source: Sized, seed: int) -> None:
        super().__init__(data_source, generator=torch.Generator())
        self.seed = seed
        self.worker_generator = torch.Generator()
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, and the seeds of its loader's workers."""
        for generator in (self.generator, self.worker_generator):
            generator.manual_seed(self.seed + epoch)
