"""One model and one server for the tests of serving."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.deploy.serving import client, serving
from zsad import Predictor, load_model
from zsad.deploy.live import Live
from zsad.deploy.serve import Server


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    return load_model("clip", backbone="zsad-mini", device="cpu")


@pytest.fixture(scope="session")
def live(predictor: Predictor) -> Live:
    return Live(predictor, ["cork", "gear"])


@pytest.fixture(scope="module")
def server(live: Live) -> Iterator[Server]:
    with serving(live) as running:
        yield running


@pytest.fixture
def web(server: Server) -> Iterator[httpx.Client]:
    with client(server) as opened:
        yield opened
