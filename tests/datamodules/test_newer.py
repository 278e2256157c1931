"""MVTec AD 2 and Real-IAD."""

import json
from pathlib import Path
from typing import Any

import pytest

from zsad.datamodules import DatasetNotFoundError, MVTecAD2, RealIAD
from zsad.datamodules.base import batches
from zsad.images.manifest import ManifestError
from zsad.types import ImageProtocol


def test_mvtec_ad2(image: Any, mask: Any, tmp_path: Path) -> None:
    for name in ("can", "vial"):
        for path in ("train/good/1", "validation/good/1", "test_public/good/000_regular", "test_private/000_regular"):
            image(f"{name}/{path}.png")
        image(f"{name}/test_public/bad/001_shift.png")
        mask(f"{name}/test_public/ground_truth/bad/001_shift_mask.png")
        image(f"{name}/test_private_mixed/000_mixed.png")
    data = MVTecAD2(tmp_path)
    assert [(r.class_name, r.label, r.mask_path and r.mask_path.name) for r in data.select()] == [
        ("can", 0, None),
        ("can", 1, "001_shift_mask.png"),
        ("vial", 0, None),
        ("vial", 1, "001_shift_mask.png"),
    ]
    assert [r.label for part in ("train", "valid") for r in data.select(part)] == [0] * 4
    private = MVTecAD2(tmp_path, test_part="private_mixed", protocol=ImageProtocol(size=14))
    assert list(next(batches(private))) == ["image", "class_name", "image_path"]
    assert [r.image_path.name for r in private.select()] == ["000_mixed.png"] * 2
    with pytest.raises(ValueError, match="test_part must be 'public', 'private' or 'private_mixed', got 'secret'"):
        MVTecAD2(tmp_path, test_part="secret")  # type: ignore[arg-type]


def test_real_iad(image: Any, mask: Any, tmp_path: Path) -> None:
    normal, anomalous = "OK/S0001/toy_0001_OK_C1.jpg", "NG/BX/S0002/toy_0002_NG_C1.jpg"
    truth = "NG/BX/S0002/toy_0002_NG_C1_mask.png"
    image(f"realiad_256/toy/{normal}")
    image(f"realiad_256/toy/{anomalous}")
    mask(f"realiad_256/toy/{truth}")
    entry = {"category": "toy", "anomaly_class": "OK", "image_path": normal, "mask_path": None}
    lists = {
        "meta": {"prefix": "toy", "normal_class": "OK"},
        "train": [entry],
        "test": [entry, entry | {"anomaly_class": "BX", "image_path": anomalous, "mask_path": truth}],
    }
    path = tmp_path / "realiad_jsons" / "realiad_jsons" / "toy.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(lists))
    data = RealIAD(tmp_path, resolution="256")
    assert [(r.class_name, r.label, r.defect) for r in data.select()] == [("toy", 0, "OK"), ("toy", 1, "BX")]
    assert data.select()[1].mask_path == tmp_path / "realiad_256/toy" / truth
    assert len(data.select("train")) == 1
    assert data.dataset()[1]["gt_mask"].any()
    with pytest.raises(DatasetNotFoundError, match=r"'realiad_jsons_sv/<class>\.json' not found"):
        RealIAD(tmp_path, resolution="256", views="single").select()
    with pytest.raises(DatasetNotFoundError, match="'realiad_1024' not found"):
        RealIAD(tmp_path).select()
    path.write_text('{"test": [{"image_path": "x.jpg"}]}')
    with pytest.raises(ManifestError, match=r"toy\.json' is not a list of Real-IAD.*KeyError 'anomaly_class'"):
        RealIAD(tmp_path, resolution="256").select()
    with pytest.raises(ValueError, match="resolution must be '256', '512', '1024' or 'raw', got '333'"):
        RealIAD(tmp_path, resolution="333")  # type: ignore[arg-type]
