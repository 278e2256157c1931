from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zsad.datamodules import MVTecAD
from zsad.datamodules.training import TrainingDataset, draw_shots, load_augment, mosaic
from zsad.training.augment import VIEWS, view
from zsad.types import ImageProtocol, Record

RECORDS = [Record(Path(f"{name}{i}.png"), name, int(i >= 6)) for name in ("a", "b") for i in range(10)]


def test_shots_are_drawn_per_class_by_seed() -> None:
    drawn = list(draw_shots(RECORDS, 4, seed=1))
    assert [record.class_name for record in drawn] == ["a"] * 4 + ["b"] * 4
    assert len({record.image_path for record in drawn}) == 8
    assert drawn == list(draw_shots(RECORDS, 4, seed=1))
    assert drawn == sorted(drawn, key=RECORDS.index)
    assert len({tuple(record.image_path for record in draw_shots(RECORDS, 4, seed)) for seed in range(20)}) > 10
    alone = list(draw_shots([record for record in RECORDS if record.class_name == "b"], 4, seed=1))
    assert alone == drawn[4:]  # the draw of a class does not depend on the others


def test_every_image_is_equally_likely() -> None:
    counts = np.zeros(10)
    for seed in range(1000):
        for record in draw_shots(RECORDS[:10], 3, seed):
            counts[RECORDS.index(record)] += 1
    assert abs(counts / 1000 - 0.3).max() < 0.06


@pytest.mark.parametrize(("shots", "anomalous"), [(1, 1), (4, 2), (5, 3)])
def test_balanced_shots(shots: int, anomalous: int) -> None:
    drawn = list(draw_shots(RECORDS, shots, how="balanced"))
    assert len(drawn) == 2 * shots
    assert sum(record.label or 0 for record in drawn) == 2 * anomalous


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((11,), "Cannot draw 11 images of class 'a': it has 10"),
        ((9, 0, "balanced"), "Cannot draw 5 anomalous images of class 'a': it has 4"),
        ((0,), "shots must be at least 1 image per class, got 0"),
        ((1, 0, "odd"), "shot_draw must be 'any' or 'balanced', got 'odd'"),
    ],
)
def test_impossible_draws(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(draw_shots(RECORDS, *arguments))


def test_mosaic() -> None:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)) for _ in range(4)]
    marks = [None, *(rng.random((6, 8)) > 0.5 for _ in range(3))]
    image, mask = mosaic(list(zip(pictures, marks, strict=True)))
    whole = np.asarray(image)
    for number in range(4):
        top, left = number // 2 * 6, number % 2 * 8
        assert np.array_equal(whole[top : top + 6, left : left + 8], np.asarray(pictures[number]))
        expected = marks[number]
        part = mask[top : top + 6, left : left + 8]
        assert not part.any() if expected is None else np.array_equal(part, expected)


def test_stitching_stays_in_the_class_and_labels_follow(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree()
    records = MVTecAD(tmp_path, counts="ignore").select()
    dataset = TrainingDataset(records, ImageProtocol(size=32), stitch=1.0, masks=True)
    torch.manual_seed(0)
    labels = []
    for index in [0, 3, 9, 12] * 5:
        sample = dataset[index]
        assert sample["class_name"] == records[index].class_name
        assert bool(sample["gt_mask"].any()) == bool(sample["gt_label"])
        labels.append(sample["gt_label"])
    assert set(labels) == {0, 1} or sum(labels) > 15  # four normal images in a row are rare
    torch.manual_seed(1)
    first = dataset[0]["image"]
    torch.manual_seed(1)
    assert torch.equal(dataset[0]["image"], first)
    assert not torch.equal(dataset[0]["image"], first)
    with pytest.raises(ValueError, match=r"stitch is a probability in \[0, 1\], got 2"):
        TrainingDataset(records, ImageProtocol(), stitch=2)


def test_stitch_probability_and_evaluation_without(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree()
    data = MVTecAD(tmp_path, counts="ignore", stitch=0.5, protocol=ImageProtocol(size=14), shots=2)
    training, plain = data.dataset(training=True), data.dataset()
    assert len(training) == 4
    torch.manual_seed(0)
    single = {path: one for path, one in ((one["image_path"], one["image"]) for one in (plain[i] for i in range(18)))}
    same = [torch.equal(one["image"], single[one["image_path"]]) for one in (training[0] for _ in range(60))]
    assert 15 < sum(same) < 45
    assert torch.equal(plain[0]["image"], plain[0]["image"])


def test_augmentation_from_a_file_differs_between_workers(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    import albumentations

    mvtec_tree(classes=("bottle",))
    pipeline = albumentations.Compose([albumentations.RandomBrightnessContrast(p=1.0)])
    for kind in ("yaml", "json"):
        albumentations.save(pipeline, tmp_path / f"augment.{kind}", data_format=kind)
        assert isinstance(load_augment(tmp_path / f"augment.{kind}"), albumentations.Compose)
    protocol = ImageProtocol(size=14)
    data = MVTecAD(
        tmp_path, counts="ignore", augment=tmp_path / "augment.yaml", protocol=protocol, num_workers=2, batch_size=1
    )
    dataset = data.dataset(training=True)
    same = [dataset.records[0]] * 4
    copies = TrainingDataset(same, protocol, augment=data.augment)
    loader = data._loader(copies, shuffle=True)
    torch.manual_seed(0)
    images = [batch["image"] for batch in loader]
    assert len({float(image.mean()) for image in images}) == 4
    assert data.dataset().augment is None
    with pytest.raises(FileNotFoundError, match=r"No augmentation file '.*gone\.yaml'"):
        load_augment(tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("a: 1")
    with pytest.raises(ValueError, match=r"bad\.yaml' is not a pipeline"):
        load_augment(tmp_path / "bad.yaml")


@pytest.mark.parametrize("workers", [0, 2])
def test_fixed_views_come_one_view_of_all_images_after_the_other(
    mvtec_tree: Callable[..., None], tmp_path: Path, workers: int
) -> None:
    mvtec_tree()
    options: dict[str, Any] = {"counts": "ignore", "protocol": ImageProtocol(size=32), "classes": ["bottle"]}
    plain = MVTecAD(tmp_path, **options).dataset("test", training=True)
    data = MVTecAD(tmp_path, fixed_views=True, batch_size=5, num_workers=workers, **options)
    seen = data.dataset("test", training=True)
    assert len(seen) == VIEWS * len(plain)
    assert len(data.dataset("test")) == len(plain)  # for training only
    for index in (0, len(plain), 5 * len(plain) + 1, len(seen) - 1):
        number, place = divmod(index, len(plain))
        before, after = plain[place], seen[index]
        expected = view(before["image"][None], number)[0]
        torch.testing.assert_close(after["image"], expected, atol=1e-6, rtol=0)
        mask = view(before["gt_mask"][None, None].float(), number)[0, 0] > 0.5
        assert torch.equal(after["gt_mask"], mask)
        assert after["image_path"] == before["image_path"]
    with pytest.raises(IndexError, match=f"There are {len(seen)} views of images, got {len(seen)}"):
        seen[len(seen)]
    loaded = {
        (path, round(float(one.sum()), 2))
        for batch in data.train_dataloader()
        for path, one in zip(batch["image_path"], batch["image"], strict=True)
    }
    assert loaded == {
        (one["image_path"], round(float(one["image"].sum()), 2)) for one in map(seen.__getitem__, range(len(seen)))
    }
