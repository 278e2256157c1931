"""Exported folders that several tests read, each written once a session."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zsad import Predictor, load_model
from zsad.deploy.exporting import Verification, export

CLASSES = ["wood", "coin"]
FEW = Verification(pictures=None)


def model(name: str = "anovl", **options: Any) -> Predictor:
    """A method on the embedded backbone; learned parameters are random."""
    chosen = {"views": "none", **options} if name == "anovl" else options
    return load_model(name, backbone="zsad-mini", checkpoint="untrained", device="cpu", **chosen)


def smooth(seed: int, size: tuple[int, int] = (60, 80)) -> Image.Image:
    """A smooth picture with some noise, (height, width)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    values = np.asarray(small.resize((size[1], size[0]), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((values + rng.integers(-8, 9, values.shape)).clip(0, 255).astype(np.uint8))


def pictures(folder: Path, number: int = 3) -> Path:
    """A folder of pictures of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(number):
        smooth(place, (60 + 7 * place, 80 - 5 * place)).save(folder / f"{place}.png")
    return folder


def write(predictor: Predictor, folder: Path, photos: Path, **options: Any) -> Path:
    """Export with a proof on few pictures."""
    return export(predictor, folder, CLASSES, verify=Verification(photos, **options.pop("verify", {})), **options)


def copy(folder: Path, where: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(folder, where))


def edit(folder: Path, **more: Any) -> None:
    """Change entries of ``meta.json``."""
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "scipy", "skimage", "lightning", "open_clip", "typing_extensions",
                                      "filelock", "rich", "yaml", "tifffile"}:
            raise ImportError(f"refused: {name}")
sys.meta_path.insert(0, Refuse())
"""
"""A process that starts with this cannot import torch and its like."""

ALONE = f"""{REFUSE}
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python run.py ...`` in a process where torch and its like cannot be imported, far from zsad's sources."""
    command = [sys.executable, "-I", "-c", ALONE, str(folder / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parent)
