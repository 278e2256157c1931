"""Fake benchmarks: tiny images and masks in the layouts of the real ones, written on the fly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path) -> Write:
    """Write a picture below tmp_path; its pixels depend on its path alone."""

    def write(path: str, size: tuple[int, int] = (24, 32), mode: str = "RGB") -> Path:
        rng = np.random.default_rng(list(path.encode()))
        shape = (*size, 3) if mode == "RGB" else size
        return save(tmp_path / path, Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).convert(mode))

    return write


@pytest.fixture
def mask(tmp_path: Path) -> Write:
    """Write a mask below tmp_path with one marked rectangle (left, top, right, bottom)."""

    def write(
        path: str,
        size: tuple[int, int] = (24, 32),
        value: int = 255,
        mode: str = "L",
        box: tuple[int, int, int, int] | None = (4, 6, 14, 12),
    ) -> Path:
        values = np.zeros(size, np.uint8)
        if box:
            values[box[1] : box[3], box[0] : box[2]] = value
        if mode == "P":
            picture = Image.fromarray(values, mode="P")
            picture.putpalette([0, 0, 0, 255, 255, 255, 85, 85, 85])
        elif mode == "RGB":
            picture = Image.fromarray(np.stack([values * 0, values * 0, values], -1))
        else:
            picture = Image.fromarray(values)
        return save(tmp_path / path, picture)

    return write


def save(path: Path, picture: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in {".jpg", ".jpeg"} else {}
    picture.save(path, **options)
    return path


@pytest.fixture
def mvtec_tree(image: Write, mask: Write) -> Callable[..., None]:
    """Write classes in MVTec AD's layout with its traps: grey and upper-case files, stray text, no masks of good."""

    def write(
        classes: tuple[str, ...] = ("bottle", "grid"),
        top: str = "",
        normal: str = "good",
        defects: tuple[str, ...] = ("bent", "combined"),
        suffix: str = "_mask",
        extension: str = ".png",
    ) -> None:
        for number, name in enumerate(classes):
            folder = f"{top}{name}"
            mode = "L" if number else "RGB"
            for part in ("train", "test"):
                for i in range(3):
                    image(f"{folder}/{part}/{normal}/{i:03d}{extension}", mode=mode)
            for defect in defects:
                for i in range(3):
                    shown = extension.upper() if i == 2 else extension
                    image(f"{folder}/test/{defect}/{i:03d}{shown}", mode=mode)
                    mask(f"{folder}/ground_truth/{defect}/{i:03d}{suffix}.png", box=(i, 6, 14, 12))
            path = image(f"{folder}/test/stray.png").with_name("notes.txt")
            path.write_text("not a defect")
            path.parent.parent.joinpath("license.txt").write_text("terms")
            path.with_name(defects[0]).joinpath("readme.txt").write_text("stray")

    return write
