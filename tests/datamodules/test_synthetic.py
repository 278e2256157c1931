import numpy as np
import pytest
import torch

from zsad.datamodules import SameSourceError, Synthetic, check_pair, get_datamodule
from zsad.datamodules.base import batches
from zsad.synthetic import HELD_OUT_CLASSES, HELD_OUT_DEFECTS, SEEN_CLASSES, SEEN_DEFECTS, generate
from zsad.types import ImageProtocol

PLAIN = ImageProtocol(size=96, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_it_is_in_the_registry() -> None:
    assert get_datamodule("synthetic") is Synthetic


def test_samples_are_the_generators_pictures_and_masks() -> None:
    data = Synthetic(images=20, protocol=PLAIN)
    dataset = data.dataset("test")
    assert len(dataset) == 20
    for index in (0, 7, 19):
        record, sample = data.select("test")[index], dataset[index]
        drawn = generate(record.class_name, record.defect, int(record.image_path.stem))
        np.testing.assert_array_equal(np.rint(sample["image"].permute(1, 2, 0).numpy() * 255), drawn.image)
        np.testing.assert_array_equal(sample["gt_mask"].numpy(), drawn.mask)
        assert sample["gt_label"] == int(bool(record.defect))
        assert sample["class_name"] == record.class_name


def test_batches_have_labels_and_masks_and_both_kinds() -> None:
    data = Synthetic(images=20, protocol=PLAIN, batch_size=8)
    parts = list(batches(data))
    assert [len(part["image"]) for part in parts] == [8, 8, 4]
    labels = torch.cat([part["gt_label"] for part in parts])
    masks = torch.cat([part["gt_mask"] for part in parts])
    assert labels.tolist() == masks.any(-1).any(-1).long().tolist()
    assert labels.sum() == 10


def test_order_workers_and_repetition_change_nothing() -> None:
    first, second = (next(iter(batches(Synthetic(images=10, batch_size=10, num_workers=n)))) for n in (0, 2))
    torch.testing.assert_close(first["image"], second["image"], rtol=0, atol=0)
    assert first["image_path"] == second["image_path"]
    assert len(set(first["image_path"])) == 10


@pytest.mark.parametrize("split", ["held-out both", "seen"])
def test_test_pictures_are_of_the_split_and_training_pictures_are_of_seen_kinds(split: str) -> None:
    data = Synthetic(split=split, images=104, train_images=104)  # type: ignore[arg-type]
    test, train = data.select("test"), data.select("train")
    known = (SEEN_CLASSES, SEEN_DEFECTS) if split == "seen" else (HELD_OUT_CLASSES, HELD_OUT_DEFECTS)
    assert {record.class_name for record in test} <= set(known[0])
    assert {record.defect for record in test} - {""} <= set(known[1])
    assert {record.class_name for record in train} <= set(SEEN_CLASSES)
    assert not {record.image_path.stem for record in test} & {record.image_path.stem for record in train}


def test_another_seed_gives_other_pictures() -> None:
    one, two = (Synthetic(images=10, seed=seed).dataset("test")[3]["image"] for seed in (0, 1))
    assert (one - two).abs().mean() > 0.05


def test_a_class_and_shots_can_be_chosen() -> None:
    data = Synthetic(images=20, train_images=104, classes=["cork"])
    assert data.class_names == ["cork"]
    assert len(data.dataset("test")) == 2
    few = Synthetic(train_images=104, shots=2, shot_draw="balanced", classes=["wood", "coin"])
    assert [(r.class_name, r.label) for r in few.dataset("train", training=True).records] == [
        ("coin", 0), ("coin", 1), ("wood", 0), ("wood", 1),
    ]  # fmt: skip


def test_training_pictures_are_no_source_of_the_test_but_test_pictures_are() -> None:
    data = Synthetic(images=10)
    check_pair(Synthetic(split="seen"), data)
    with pytest.raises(SameSourceError, match="synthetic"):
        check_pair(Synthetic(images=10, train_split="test"), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "unseen"}, r"Unknown split 'unseen'; choose one of: seen"),
        ({"images": 0}, r"n must be at least 1"),
        ({"train_images": 0}, r"n must be at least 1"),
        ({"seed": -1}, r"seed in 0..999999, got"),
    ],
)
def test_bad_arguments_are_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Synthetic(**options)  # type: ignore[arg-type]


def test_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="parts 'train' and 'test', got 'val'"):
        Synthetic().dataset("val")


def test_the_share_of_defective_pictures_is_that_of_the_test_alone() -> None:
    data = Synthetic(images=200, train_images=112, defective=0.2)
    assert sum(record.label == 1 for record in data.select("test")) == 40
    assert sum(record.label == 1 for record in data.select("train")) == 56
