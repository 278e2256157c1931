"""Two processes with 13 images against one: equal values, equal binned states."""

import socket
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from tests.metrics.two_processes import IMAGES, SETTINGS, evaluate, worker
from zsad.metrics import EvaluationResult

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # few images: some metrics are undefined


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(worker, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def flat(result: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(result, dict):
        return {k: v for key, value in result.items() for k, v in flat(value, f"{prefix}/{key}").items()}
    if isinstance(result, list):
        return flat(dict(enumerate(result)), prefix)
    return {prefix: result}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings["mode"])
def test_values_equal_one_process(found: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    alone: EvaluationResult = evaluate(list(range(IMAGES)), settings).compute()
    expected = flat(alone.to_dict())
    assert sum(sum(counts) for counts in alone.counts.values()) == IMAGES
    for rank in range(2):
        for key in (f"{settings['mode']} result", f"{settings['mode']} again"):
            got = flat(found[rank][key])
            assert set(got) == set(expected)
            for name, value in expected.items():
                assert got[name] == (value if isinstance(value, str | None) else pytest.approx(value, abs=1e-12)), name


def test_binned_states_are_the_same_bit_by_bit(found: list[dict[str, Any]]) -> None:
    pixels = evaluate(list(range(IMAGES)), SETTINGS[1])._state("pill", torch.device("cpu")).pixels
    for rank in range(2):
        for name, value in found[rank]["states"].items():
            assert torch.equal(value, getattr(pixels, name)), name


def test_repeated_images_are_warned_of(found: list[dict[str, Any]]) -> None:
    for rank in range(2):
        assert len(found[rank]["repeated"]) == 1
        assert found[rank]["repeated"][0].startswith("1 images were evaluated by more than one process")


def test_a_process_without_data_takes_part(found: list[dict[str, Any]]) -> None:
    assert found[0]["metrics"] == found[1]["metrics"] == (1.0, pytest.approx(1.0))
