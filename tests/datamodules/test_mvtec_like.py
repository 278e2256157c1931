from collections.abc import Callable
from pathlib import Path

import pytest

from zsad.datamodules import MPDD, DatasetCountError, DatasetNotFoundError, DataWarning, DTDSynthetic


def test_mpdd(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree(classes=("tubes", "connector"), defects=("anomalous",), top="MPDD/")
    records = MPDD(tmp_path, counts="ignore").select()
    assert [(r.class_name, r.defect) for r in records][-3:] == [("tubes", "anomalous")] * 3
    assert len(records) == 12


def test_mpdd_download_without_some_classes(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree(classes=("tubes",), defects=("anomalous",))
    with pytest.warns(DataWarning, match=r"connector: expected 30 \+ 14, found 0 \+ 0.*tubes: expected 32 \+ 69"):
        MPDD(tmp_path).select()
    with pytest.raises(DatasetNotFoundError, match=r"of class \['connector'\]"):
        MPDD(tmp_path, classes=["connector"], counts="ignore").select()


@pytest.mark.parametrize("suffix", ["_mask", ""])
def test_dtd_synthetic(mvtec_tree: Callable[..., None], tmp_path: Path, suffix: str) -> None:
    mvtec_tree(classes=("Woven_001", "Mesh_114"), defects=("bad",), suffix=suffix, top="dtd/")
    records = DTDSynthetic(tmp_path, counts="ignore").select()
    assert [(r.class_name, r.label) for r in records] == [
        (name, label) for name in ("Mesh_114", "Woven_001") for label in (0, 0, 0, 1, 1, 1)
    ]
    assert all((r.mask_path is not None) == bool(r.label) for r in records)
    with pytest.raises(DatasetCountError, match=r"all classes: expected 357 \+ 947, found 6 \+ 6"):
        DTDSynthetic(tmp_path, counts="error").select()
    DTDSynthetic(tmp_path, counts="error", classes=["Mesh_114"]).select()  # per class nothing is known
