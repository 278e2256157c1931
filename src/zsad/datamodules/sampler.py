"""Evaluation under several processes, every image exactly once."""

from collections.abc import Iterator, Sized

from torch.utils.data.distributed import DistributedSampler


class UnpaddedDistributedSampler(DistributedSampler[int]):
    """Each process gets every n-th index in order, none twice; some processes get one index fewer.

    torch's sampler repeats images until all processes have equally many, which moves every metric. Lightning puts that
    sampler into test loaders by itself, unless the loader already has a :class:`DistributedSampler`; hence the base.

    Args:
        dataset: Anything with a length.
        num_replicas: Number of processes; by default that of the process group.
        rank: Number of this process; by default that in the process group.
    """

    def __init__(self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)  # type: ignore[arg-type]  # only its length is read
        self._indices = range(self.rank, len(dataset), self.num_replicas)
        self.num_samples = len(self._indices)
        self.total_size = len(dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
