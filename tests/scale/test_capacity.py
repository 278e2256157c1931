"""The capacity script: its arithmetic, by hand, and its limits."""

from __future__ import annotations

import pytest
from benchmarks.capacity import Costs, Node, plan, rates


def test_a_day_by_hand() -> None:
    costs = Costs(gpu=0.0025, decode=0.030, read_bytes=400e3, start=0.0)
    one = plan(costs, Node(workers=1, cores=12, megabytes=2000), 10_000_000, 1)
    assert one["bottleneck"] == "model"  # 400 images/s of one GPU and of 12 cores
    assert one["images_per_second"] == pytest.approx(400)
    assert one["hours"] == pytest.approx(10_000_000 / 400 / 3600, rel=1e-3)  # 7 GPU-hours
    assert one["cores_per_worker_needed"] == pytest.approx(12)
    assert one["read_tb"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("change", "node", "bottleneck"),
    [
        ({}, Node(8, 24), "cores"),
        ({}, Node(8, 1000, 500), "reading"),
        ({"map_bytes": 1_073_296.0}, Node(8, 1000), "writing"),
        ({"draw": 0.02}, Node(8, 96), "cores"),
    ],
)
def test_what_the_machines_wait_for(change: dict[str, float], node: Node, bottleneck: str) -> None:
    costs = Costs(**change)
    found = plan(costs, node, 1_000_000, 2)
    assert found["bottleneck"] == bottleneck
    assert found["images_per_second"] == pytest.approx(2 * min(rates(costs, node).values()))


def test_more_machines_are_faster_until_the_start_is_all() -> None:
    costs, node = Costs(start=60.0), Node()
    hours = [float(plan(costs, node, 10_000_000, nodes)["hours"]) for nodes in (1, 2, 8, 64)]
    assert hours == sorted(hours, reverse=True)
    assert hours[0] / hours[1] == pytest.approx(2, rel=0.05)
    assert hours[-1] > 60 / 3600
