import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch.utils.data import DataLoader

from zsad.datamodules import Folder
from zsad.datamodules.dataset import (
    AnomalyDataset,
    BatchLoader,
    DataWarning,
    MaskSizeError,
    Skipped,
    collate,
    describe,
)
from zsad.images import ImageError, load_rgb, mask_to_tensor, to_tensor
from zsad.types import ImageProtocol, Record

PROTOCOL = ImageProtocol(size=28)


@pytest.fixture
def records(image: Any, mask: Any) -> list[Record]:
    return [
        Record(image("a.png"), "x", 0),
        Record(image("b.png"), "x", 1, mask("b_mask.png")),
        Record(image("c.png"), "y", 1, mask("c_mask.png", box=None)),
    ]


def loader(dataset: AnomalyDataset, workers: int = 0, batch_size: int = 2) -> BatchLoader:
    start = dataset.start_worker
    return BatchLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate, worker_init_fn=start)


def test_samples(records: list[Record]) -> None:
    dataset = AnomalyDataset(records, PROTOCOL)
    batch = next(iter(loader(dataset, batch_size=3)))
    assert list(batch) == ["image", "class_name", "image_path", "gt_label", "gt_mask"]
    assert torch.equal(batch["image"][1], to_tensor(load_rgb(records[1].image_path), PROTOCOL))
    assert batch["class_name"] == ["x", "x", "y"]
    assert batch["image_path"] == [str(record.image_path) for record in records]
    assert batch["gt_label"].tolist() == [0, 1, 1]  # an empty mask does not make an anomalous image normal
    assert batch["gt_label"].dtype == torch.int64
    marked = np.zeros((24, 32), bool)
    marked[6:12, 4:14] = True
    assert torch.equal(batch["gt_mask"][1], mask_to_tensor(marked, PROTOCOL))
    assert batch["gt_mask"].dtype == torch.bool
    assert batch["gt_mask"][[0, 2]].sum() == 0


def test_mask_of_a_normal_image_is_not_opened(records: list[Record], tmp_path: Path) -> None:
    normal = Record(records[0].image_path, "x", 0, tmp_path / "missing.png")
    sample = AnomalyDataset([normal, records[1]], PROTOCOL)[0]
    assert sample["gt_mask"].shape == (28, 28)
    assert not sample["gt_mask"].any()


def test_unknown_labels_and_missing_masks_leave_the_keys_out(records: list[Record]) -> None:
    unlabelled = AnomalyDataset([*records, Record(records[0].image_path, "x")], PROTOCOL)
    assert "gt_label" not in unlabelled[0]
    assert "gt_mask" in unlabelled[0]
    image_only = AnomalyDataset([*records, Record(records[0].image_path, "x", 1)], PROTOCOL)
    assert "gt_mask" not in image_only[1]
    assert "gt_mask" not in AnomalyDataset(records[:1], PROTOCOL)[0]
    assert "gt_mask" in AnomalyDataset(records[:1], PROTOCOL, masks=True)[0]


def test_box_cuts_image_and_mask(records: list[Record]) -> None:
    whole = records[1]
    parts = [
        Record(whole.image_path, "x", 1, whole.mask_path, "", (0, 0, 32, 10)),
        Record(whole.image_path, "x", 1, whole.mask_path, "", (0, 10, 32, 24)),
    ]
    dataset = AnomalyDataset([whole, *parts], PROTOCOL)
    (image, mask), *pieces = (dataset.read(record) for record in dataset.records)
    assert np.array_equal(np.concatenate([np.asarray(piece[0]) for piece in pieces]), np.asarray(image))
    marks = [piece[1] for piece in pieces if piece[1] is not None]
    assert mask is not None
    assert np.array_equal(np.concatenate(marks), mask)
    assert describe(parts[1]) == f"{whole.image_path}#xywh=0,10,32,14"
    assert dataset[2]["image_path"].endswith("#xywh=0,10,32,14")


def test_mask_of_nearly_the_same_shape_is_resized(records: list[Record], mask: Any) -> None:
    record = Record(records[1].image_path, "x", 1, mask("twice.png", (48, 64), box=(8, 12, 28, 24)))
    with pytest.warns(DataWarning, match=r"twice\.png' is 64 x 48 pixels, its image '.*b\.png' 32 x 24"):
        _, fitted = AnomalyDataset([record], PROTOCOL).read(record)
    exact = AnomalyDataset(records, PROTOCOL).read(records[1])[1]
    assert fitted is not None
    assert exact is not None
    assert np.array_equal(fitted, exact)


def test_mask_of_another_shape_is_an_error(records: list[Record], mask: Any) -> None:
    record = Record(records[1].image_path, "x", 1, mask("turned.png", (32, 24), box=None))
    with pytest.raises(MaskSizeError, match=r"turned\.png.*24 x 32.*b\.png.*32 x 24"):
        AnomalyDataset([record], PROTOCOL)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_raise_or_are_listed(records: list[Record], tmp_path: Path, workers: int) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "lost_mask.png").write_text("")
    broken = [
        Record(tmp_path / "broken.png", "x", 0),
        Record(records[1].image_path, "x", 1, tmp_path / "lost_mask.png"),
    ]
    mixed = [records[0], *broken, records[1], records[2]]
    with pytest.raises(ImageError, match=r"broken\.png"):
        list(loader(AnomalyDataset(mixed, PROTOCOL), workers))
    dataset = AnomalyDataset(mixed, PROTOCOL, on_error="skip")
    with pytest.warns(DataWarning, match="Skipped '"):
        batches = list(loader(dataset, workers, batch_size=1))
    assert [batch["image_path"][0] for batch in batches] == [str(record.image_path) for record in records]
    assert [Path(one.image_path).name for one in dataset.skipped] == ["broken.png", "b.png"]
    assert "lost_mask.png" in dataset.skipped[1].error
    assert torch.equal(batches[1]["gt_mask"][0], AnomalyDataset(records, PROTOCOL)[1]["gt_mask"])


def test_batches_do_not_depend_on_workers_or_batch_size(records: list[Record]) -> None:
    dataset = AnomalyDataset(records, PROTOCOL)
    expected = torch.stack([dataset[i]["image"] for i in range(3)])
    for workers, size in ((0, 1), (0, 3), (2, 2)):
        assert torch.equal(torch.cat([batch["image"] for batch in loader(dataset, workers, size)]), expected)
    plain = DataLoader(dataset, batch_size=3, num_workers=1)  # workers of any other loader give floats as well
    assert torch.equal(next(iter(plain))["image"], expected)
    assert torch.equal(dataset[0]["image"], expected[0])


def test_collate_refuses_different_sizes(records: list[Record], image: Any) -> None:
    wide = Record(image("wide.png", (24, 60)), "x", 0)
    dataset = AnomalyDataset([records[0], wide], ImageProtocol(size=28, resize="short_side"))
    assert dataset[1]["image"].shape == (3, 28, 70)
    with pytest.raises(ValueError, match=r"\(28, 37\), \(28, 70\).*batch_size=1"):
        next(iter(loader(dataset)))
    assert collate([Skipped("a", "b")]) == (None, [Skipped("a", "b")])


def test_albumentations_augment_image_and_mask_alike(records: list[Record]) -> None:
    import albumentations

    flip = albumentations.Compose([albumentations.HorizontalFlip(p=1.0)])
    plain, flipped = AnomalyDataset(records, PROTOCOL)[1], AnomalyDataset(records, PROTOCOL, augment=flip)[1]
    picture = load_rgb(records[1].image_path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert torch.equal(flipped["image"], to_tensor(picture, PROTOCOL))
    assert not torch.equal(flipped["gt_mask"], plain["gt_mask"])
    assert flipped["gt_mask"].flip(-1).sum() == plain["gt_mask"].sum()


def test_bad_option_is_named() -> None:
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip', got 'ignore'"):
        AnomalyDataset([], PROTOCOL, on_error="ignore")  # type: ignore[arg-type]


# ---- grey levels beyond eight bits


def grey_levels(folder: Path, kind: str, top: int) -> np.ndarray:
    """Two TIFFs of a class, one good and one bad, with levels from 0 to ``top``; return those of the bad one."""
    values = np.linspace(0, top, 64).round().astype(kind).reshape(8, 8)
    for name, levels in (("good", values), ("bad", values[::-1])):
        (folder / "test" / name).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / "test" / name / "0.tif", levels)
    return values[::-1]


@pytest.mark.parametrize("options", [{"window": (0, 4095)}, {"bits": 12}])
@pytest.mark.parametrize("kind", ["uint16", "int16"])
def test_a_window_of_a_data_module_restores_12_bits(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    bad = grey_levels(tmp_path, kind, 4095)
    protocol = ImageProtocol(8, mean=(0, 0, 0), std=(1, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        batch = next(iter(Folder(tmp_path, protocol=protocol, **options).test_dataloader()))
    assert "warning" not in batch
    found = (batch["image"][1] * 255).round()  # good before bad
    assert np.array_equal(found[0].numpy(), np.rint(bad * (255 / 4095)))


@pytest.mark.parametrize("workers", [0, 1])
def test_levels_that_use_a_small_part_are_warned_of_once_and_per_image(tmp_path: Path, workers: int) -> None:
    grey_levels(tmp_path, "uint16", 4095)
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "test" / "good" / "1.png")
    data = Folder(tmp_path, protocol=ImageProtocol(8), num_workers=workers)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        batch = next(iter(data.test_dataloader()))
    names = [Path(path).name for path in batch["image_path"]]
    assert names == ["0.tif", "1.png", "0.tif"]
    assert [one is None for one in batch["warning"]] == [False, True, False]
    assert "a window of 0,4095 would fit" in str(batch["warning"][0])
    said = [str(one.message) for one in told if issubclass(one.category, DataWarning)]
    assert len(said) == (1 if workers == 0 else 0)  # a worker says it on its own console
    assert all("a window of 0,4095 would fit" in one for one in said)


def test_signed_levels_without_a_window_are_an_error_of_the_image(tmp_path: Path) -> None:
    grey_levels(tmp_path, "int16", 4095)
    with pytest.raises(ImageError, match=r"0\.tif.*give a window"):
        next(iter(Folder(tmp_path, protocol=ImageProtocol(8)).test_dataloader()))


def test_window_and_bits_of_a_data_module_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"window=\(0, 10\) or bits=12, not both"):
        Folder(tmp_path, window=(0, 10), bits=12)
    with pytest.raises(ValueError, match="LOW < HIGH"):
        Folder(tmp_path, window=(10, 0))
