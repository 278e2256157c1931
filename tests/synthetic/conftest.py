import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def captions() -> ModuleType:
    """The caption module of the pretraining script; benchmarks/ is no installed package."""
    root = Path(__file__).resolve().parents[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        return importlib.import_module("benchmarks.mini_clip_captions")
