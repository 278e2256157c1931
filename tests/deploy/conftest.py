"""One model and one server for the tests of serving; exported folders, each written once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy import exporting
from tests.deploy.serving import client, serving
from zsad import Predictor, load_model
from zsad.deploy.live import Live
from zsad.deploy.serve import Server


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    return load_model("clip", backbone="zsad-mini", device="cpu")


@pytest.fixture(scope="session")
def live(predictor: Predictor) -> Live:
    return Live(predictor, ["wood", "coin"])


@pytest.fixture(scope="module")
def server(live: Live) -> Iterator[Server]:
    with serving(live) as running:
        yield running


@pytest.fixture
def web(server: Server) -> Iterator[httpx.Client]:
    with client(server) as opened:
        yield opened


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exporting.pictures(tmp_path_factory.mktemp("deploy") / "photos")


@pytest.fixture(scope="session")
def predictor_of_export() -> Predictor:
    return exporting.model("anovl")


@pytest.fixture(scope="session")
def exported(predictor_of_export: Predictor, tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    return exporting.write(predictor_of_export, tmp_path_factory.mktemp("deploy") / "export", photos)


@pytest.fixture(scope="session")
def few_shot_model() -> Predictor:
    predictor = exporting.model("winclip")
    for place, name in enumerate(exporting.CLASSES):  # banks of different lengths
        predictor.fit_references(name, [exporting.smooth(50 + 10 * place + shot) for shot in range(1 + place)])
    return predictor


@pytest.fixture(scope="session")
def few_shot(few_shot_model: Predictor, tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    return exporting.write(few_shot_model, tmp_path_factory.mktemp("deploy") / "few_shot", photos)


@pytest.fixture(scope="session")
def quantized(predictor_of_export: Predictor, tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    return exporting.write(predictor_of_export, tmp_path_factory.mktemp("deploy") / "int8", photos, quantize="int8")
