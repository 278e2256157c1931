from collections.abc import Callable
from pathlib import Path

import pytest

from zsad.datamodules import DatasetNotFoundError, MVTecAD
from zsad.datamodules.layout import PairingError


def test_records(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree()
    records = MVTecAD(tmp_path, counts="ignore").select()
    rows = [
        (
            record.class_name,
            record.label,
            record.defect,
            record.image_path.relative_to(tmp_path).as_posix(),
            record.mask_path and record.mask_path.relative_to(tmp_path).as_posix(),
        )
        for record in records
    ]
    expected: list[tuple[str, int, str, str, str | None]] = []
    for name in ("bottle", "grid"):
        expected += [(name, 0, "good", f"{name}/test/good/{i:03d}.png", None) for i in range(3)]
        for defect in ("bent", "combined"):
            for i in range(3):
                end = "PNG" if i == 2 else "png"
                truth = f"{name}/ground_truth/{defect}/{i:03d}_mask.png"
                expected.append((name, 1, defect, f"{name}/test/{defect}/{i:03d}.{end}", truth))
    assert rows == expected


def test_the_train_part_and_the_folder_above(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree(top="mvtec_anomaly_detection/")
    (tmp_path / "other").mkdir()
    data = MVTecAD(tmp_path, counts="ignore")
    assert len(data.select()) == 18
    assert {record.label for record in data.select("train")} == {0}
    with pytest.raises(DatasetNotFoundError, match="<class>/valid not found"):
        data.select("valid")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda truth: (truth / "000_mask.png").unlink(), r"1 image\(s\) without mask: '.*bent/000\.png'"),
        (lambda truth: (truth / "000_mask.png").rename(truth / "9_mask.png"), r"mask\(s\) without image: '.*9_mask"),
        (lambda truth: (truth / "000.png").write_bytes(b"x"), r"second mask\(s\) for an image: '.*000"),
        (lambda truth: truth.rename(truth.parent.parent / "moved"), r"3 image\(s\) without mask"),
    ],
)
def test_masks_that_do_not_match(
    mvtec_tree: Callable[..., None], tmp_path: Path, harm: Callable[[Path], object], message: str
) -> None:
    mvtec_tree()
    harm(tmp_path / "bottle" / "ground_truth" / "bent")
    with pytest.raises(PairingError, match=message):
        MVTecAD(tmp_path, counts="ignore").select()
