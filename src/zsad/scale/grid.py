"""``zsad benchmark --engine ray``: each method and seed is a task of a cluster; the driver only counts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from zsad.benchmark.grid import Cell
from zsad.benchmark.run import Options, Runner, is_done
from zsad.scale.cluster import Cluster, connected

_EVERY = 1.0  # seconds between counts


def run_grid(
    cells: Sequence[Cell], options: Options, cluster: Cluster, tell: Callable[[int], None] = lambda done: None
) -> None:
    """Compute the cells that have no result yet; results are written by the workers.

    Args:
        cells: Of the grid.
        options: How; the results folder and the data are on a file system that every machine sees, under one path.
        cluster: Where; ``workers`` is the most tasks at a time.
        tell: Told the number of cells that have a result.

    Raises:
        ValueError: Ray is not installed, or a task asks for more GPUs than there are.
    """
    options = replace(options, out=options.out.absolute())
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.method.label, cell.seed), []).append(cell)
    with connected(cluster) as ray:
        gpus = cluster.gpus_per_worker
        there = ray.cluster_resources().get("GPU", 0)
        if gpus is None:
            gpus = 1 if there else 0
        if gpus > there:
            raise ValueError(f"A task needs {gpus:g} GPU(s), the cluster has {there:g}: give --gpus-per-worker 0.")
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_run)
        waiting, running = list(groups.values()), list[Any]()
        count = lambda: sum(is_done(one.path(options.out), options.retry_failed) for one in cells)  # noqa: E731
        while waiting or running:
            while waiting and (cluster.workers is None or len(running) < cluster.workers):
                running.append(task.remote(waiting.pop(0), options, os.getcwd()))
            ended, running = ray.wait(running, timeout=_EVERY)
            ray.get(ended)  # raises what went wrong in them
            tell(count())


def _run(cells: Sequence[Cell], options: Options, folder: str) -> Any:
    os.chdir(folder)  # data may be named below it
    return Runner(options).run(cells)
