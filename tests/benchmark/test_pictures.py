from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zsad.benchmark import pictures
from zsad.datamodules import Synthetic
from zsad.images.overlay import outline
from zsad.methods import get_method


@pytest.mark.parametrize(("images", "lines"), [(400, True), (100, False)])
def test_regions_are_outlined_where_enough_normal_images_say_what_is_unusual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, lines: bool
) -> None:
    drawn: list[np.ndarray] = []

    def draw(image: Image.Image, mask: Any) -> Image.Image:
        drawn.append(mask)
        return outline(image, mask)

    monkeypatch.setattr("zsad.benchmark.pictures.outline", draw)
    method = get_method("clip")("zsad-mini").eval()
    data = Synthetic(images=images, classes=["leather"], protocol=method.protocol)
    normal = [number for number, one in enumerate(data.select("test")) if one.label == 0]
    assert (len(normal) >= 19) is lines
    written = pictures.save_pictures(method, data, tmp_path / "leather", torch.device("cpu"))
    assert [Image.open(path).width for path in written] == [2 * pictures.SIDE] * 3
    defects, above = drawn[::2], drawn[1::2]
    assert all(mask.any() for mask in defects)
    assert any(mask.any() for mask in above) is lines
