"""Which metrics come out of which benchmark: exactly those that the papers report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zsad.datamodules import (
    CVC300,
    MPDD,
    TN3K,
    BenchmarkDataModule,
    BrainMRI,
    ColonTrain,
    CVCColonDB,
    DataWarning,
    SameSourceError,
    check_pair,
)
from zsad.datamodules.base import batches
from zsad.datamodules.facts import all_facts
from zsad.metrics import Evaluator
from zsad.types import ImageProtocol

ALL = ("image_auroc", "image_ap", "pixel_auroc", "aupro")
PROTOCOL = ImageProtocol(size=14)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [MPDD, BrainMRI, TN3K])
def test_metrics_are_those_of_the_table(
    kind: type[BenchmarkDataModule], mvtec_tree: Callable[..., None], image: Any, mask: Any, tmp_path: Path
) -> None:
    mvtec_tree(classes=("tubes", "connector"), defects=("anomalous",))
    for i in range(3):
        image(f"brain_tumor_dataset/no/{i}.jpg")
        image(f"brain_tumor_dataset/yes/{i}.jpg")
        image(f"test-image/{i:04d}.jpg")
        mask(f"test-mask/{i:04d}.jpg")
    data = kind(tmp_path, counts="ignore", protocol=PROTOCOL)
    evaluator = Evaluator(mode="exact", metrics=ALL)
    generator = torch.Generator().manual_seed(0)
    for batch in batches(data):
        size = len(batch["image"])
        scores, maps = torch.rand(size, generator=generator), torch.rand(size, 14, 14, generator=generator)
        evaluator.update(batch["class_name"], scores, batch.get("gt_label"), maps, batch.get("gt_mask"))
    found = {name for name, value in evaluator.compute().mean.items() if np.isfinite(value)}
    assert found == set(data.metrics)


@pytest.mark.parametrize("key", all_facts())
def test_facts_agree_with_each_other(key: str) -> None:
    facts = all_facts()[key]
    normal, anomalous = facts.counts.get("*", (1, 1))
    assert any(name.startswith("image") for name in facts.metrics) == (normal > 0 and key != "colon_train")
    assert any(name.startswith("pixel") for name in facts.metrics) == (facts.has_masks and key != "colon_train")
    assert anomalous > 0
    assert set(facts.readable) == set(facts.classes)
    assert Path("docs/datamodules", f"{key}.md").is_file() or not Path("docs").is_dir()


def test_a_normal_image_has_a_mask_of_its_own_shape(mvtec_tree: Callable[..., None], tmp_path: Path) -> None:
    mvtec_tree(classes=("tubes",), defects=("anomalous",))
    data = MPDD(tmp_path, counts="ignore", protocol=ImageProtocol(size=14, resize="short_side"))
    for batch in batches(data):
        assert batch["image"].shape == (1, 3, 14, 18)  # 24 x 32
        assert batch["gt_mask"].shape == (1, 14, 18)


def test_pairs_of_sources_and_targets_that_overlap(tmp_path: Path) -> None:
    colon = ColonTrain(tmp_path, tmp_path)
    with pytest.raises(SameSourceError, match=r"trained on colon_train, which is \(part of\) the data of cvc_colondb"):
        check_pair(colon, CVCColonDB(tmp_path))
    with pytest.warns(DataWarning, match="same videos"):
        check_pair(colon, CVC300(tmp_path))
    check_pair(colon, TN3K(tmp_path))
