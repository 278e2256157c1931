import pytest

from zsad.datamodules.sampler import UnpaddedDistributedSampler


@pytest.mark.parametrize("length", [0, 1, 5, 8])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_index_once(length: int, processes: int) -> None:
    samplers = [UnpaddedDistributedSampler(range(length), processes, rank) for rank in range(processes)]
    assert sorted(index for sampler in samplers for index in sampler) == list(range(length))
    assert [len(list(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers]
    assert all(list(sampler) == sorted(sampler) for sampler in samplers)
