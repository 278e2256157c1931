"""One Ray and one object store for all of these tests in a process, and pictures.

Without Ray for a platform there is nothing to collect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from zsad import load_model
from zsad.inference import Predictor
from zsad.synthetic import generate

collect_ignore_glob = [] if find_spec("ray") else ["test_*.py"]

MODEL = ["--method=clip", "--backbone=zsad-mini", "--device=cpu", "--class-name=coin"]
FEW_BYTES = 100 * 2**20


@pytest.fixture(scope="package")
def store() -> Iterator[dict[str, str]]:
    """An S3 emulator on loopback; where it is and its keys are in the environment, which Ray's processes inherit."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key-of-the-emulator",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-emulator",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment
    server.stop()


@pytest.fixture(scope="package")
def ray(store: dict[str, str]) -> Iterator[Any]:
    """Ray with six logical slots on whatever cores there are."""
    from zsad.scale.cluster import require_ray

    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 of Ray's own starves on a machine that is busy
    found = require_ray()
    found.init(num_cpus=6, include_dashboard=False, object_store_memory=FEW_BYTES, log_to_driver=False)
    yield found
    found.shutdown()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve coins, one in a folder below, and a file that is no image."""
    root = tmp_path_factory.mktemp("coins")
    (root / "below").mkdir()
    for number in range(12):
        name = f"{'below/' if number == 5 else ''}{number:02d}.png"
        Image.fromarray(generate("coin", "hole" if number % 3 == 0 else "", seed=number).image).resize((96, 80)).save(
            root / name
        )
    (root / "07b.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="session")
def model() -> Predictor:
    """The embedded CLIP, three images at a time."""
    return load_model("clip", "zsad-mini", device="cpu", batch_size=3)
