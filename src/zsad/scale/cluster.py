"""The machines of a job: how many slots it needs, and whether they are there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

OTHERS = 4
"""CPU slots beside the workers': reading lists, writing rows, and the filter of a continued job.

The filter is an actor with a slot of its own: where none is left, a continued job waits for ever.
"""

_START = "240"  # seconds that Ray may take to start on a busy machine


class TooFewSlotsError(ValueError):
    """The cluster is too small for the job."""


@dataclass(frozen=True)
class Cluster:
    """Where a job runs.

    Args:
        address: Of a cluster that runs already (``"auto"`` finds this machine's); None starts Ray here for the job.
        workers: Processes that hold the model; by default one per GPU, else one per CPU that is left.
        gpus_per_worker: May be a fraction; by default 1 if the cluster has GPUs, else 0.
        dashboard: Whether Ray started here serves its dashboard, on this machine alone.
        memory: Bytes of Ray's object store when it is started here; None leaves it to Ray.

    Raises:
        ValueError: A number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    dashboard: bool = False
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}.")
        if self.gpus_per_worker is not None and not self.gpus_per_worker >= 0:
            raise ValueError(f"gpus_per_worker must be at least 0, got {self.gpus_per_worker}.")


@dataclass(frozen=True)
class Slots:
    """What a job takes of a cluster."""

    workers: int
    gpus: float
    """Per worker."""


def require_ray() -> Any:
    """Return Ray.

    Raises:
        ValueError: It is not installed.
    """
    os.environ.setdefault("RAY_raylet_start_wait_time_s", _START)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ValueError('--engine ray needs Ray: pip install "zsad[ray]".') from error
    return ray


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Connect to the cluster, or start Ray on this machine until the block ends; a connection that is there stays.

    Raises:
        ConnectionError: Nothing answers at the address.
        ValueError: Ray is not installed.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    if cluster.address is not None:
        ray.init(address=cluster.address, log_to_driver=False)
    else:
        # logical slots: on one machine the stages share its cores
        slots = (cluster.workers or os.cpu_count() or 1) + OTHERS
        ray.init(
            num_cpus=slots,
            include_dashboard=cluster.dashboard,
            log_to_driver=False,
            object_store_memory=cluster.memory,
            logging_level="warning",
        )
    try:
        yield ray
    finally:
        ray.shutdown()


def slots_of(cluster: Cluster) -> Slots:
    """Return what the job takes of the cluster that is connected.

    Raises:
        TooFewSlotsError: It has fewer slots; the message names both numbers.
    """
    there = require_ray().cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), float(there.get("GPU", 0))
    per_worker = (1.0 if gpus else 0.0) if cluster.gpus_per_worker is None else cluster.gpus_per_worker
    workers = cluster.workers or max(1, int(gpus / per_worker) if per_worker else cpus - OTHERS)
    if cpus < workers + OTHERS:
        raise TooFewSlotsError(
            f"{workers} worker(s) need {workers + OTHERS} CPU slots (one each, and {OTHERS} to read, write and "
            f"continue), the cluster has {cpus}. Take fewer --workers, or start Ray with --num-cpus {workers + OTHERS}."
        )
    if per_worker * workers > gpus:
        raise TooFewSlotsError(
            f"{workers} worker(s) with {per_worker:g} GPU(s) each need {workers * per_worker:g}, the cluster has "
            f"{gpus:g}. Take fewer --workers or --gpus-per-worker 0."
        )
    return Slots(workers, per_worker)
