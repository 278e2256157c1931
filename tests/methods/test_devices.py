"""What would go wrong on a GPU shows without one: devices that are mixed, and steps that wait for a value."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from tests.conftest import make_clip, with_panels
from tests.methods.fake_cuda import fake_cuda, there
from zsad.methods import METHODS
from zsad.metrics.accumulator import ScoreAccumulator
from zsad.metrics.regions import find_regions
from zsad.types import Context

NAMES, PATHS = ["bolt", "nut"], ["a.png", "b.png"]
READS = {
    "musc": "compares the pixels of an image with those of the panel, to leave its own out",
    "adaclip": "clusters the patches of each image by k-means, on the host",
    "transmm": "needs the gradient inside the pass, which fake tensors have on real devices only",
}
"""Methods whose forward pass must read what an image holds, or cannot be run by this means."""
LOSS_READS = {
    "adaclip": READS["adaclip"],
    "aaclip": "tokenises the prompts of the batch in every step, on the host",
}


@pytest.fixture(autouse=True)
def _untrained() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trained methods say that they are not
        yield


def model_of(name: str, **options: Any) -> Any:
    kind: Any = METHODS[name]
    model = kind(make_clip(), **options).eval()
    with_panels(model, NAMES)
    return model


def moved(model: Any) -> None:
    """What a method knows of its own buffers after it has been asked once on a device."""
    if (known := getattr(model, "_known", None)) is not None:
        model._known = (id(model.finished), model.finished._version), known[1]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in READS])
def test_a_forward_pass_stays_on_its_device_and_waits_for_nothing(name: str, image: Tensor) -> None:
    model, image = model_of(name), image[:2]
    with torch.no_grad():
        expected = model(image, NAMES, PATHS)  # encodes the texts
        with fake_cuda(model):
            moved(model)
            found = model(there(image), NAMES, PATHS)
    for one, other in ((found.anomaly_map, expected.anomaly_map), (found.pred_score, expected.pred_score)):
        assert one.device.type == "cuda"
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def batch_of(image: Tensor, masks: Tensor) -> Any:
    labels = masks.new_ones(len(image), dtype=torch.long)
    return {"image": image, "gt_mask": masks, "gt_label": labels, "class_name": NAMES, "image_path": PATHS}


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind.learns() and name not in LOSS_READS])
def test_a_loss_stays_on_its_device(name: str, image: Tensor) -> None:
    model, image = model_of(name), image[:2]
    model.train()
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[:, 4:12, 4:12] = True
    expected = model.loss(batch_of(image, masks))
    with fake_cuda(model):
        moved(model)
        found = model.loss(batch_of(there(image), there(masks)))
    assert found.keys() == expected.keys()
    assert {value.device.type for value in found.values()} == {"cuda"}
    assert found["loss"].requires_grad


def test_pixel_scores_are_counted_where_they_are() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:4, 2:4] = True
    regions = find_regions(mask)  # on the host: labels of regions are read
    state = ScoreAccumulator("binned", (0.0, 1.0), regions=True)
    scores = torch.rand(8, 8)
    with fake_cuda(state) as mode:
        state._device = torch.device("cuda")
        state.add(
            there(scores), regions._replace(pixel=mode.from_tensor(regions.pixel), area=mode.from_tensor(regions.area))
        )
        assert state.n_pixel.device.type == "cuda"


def test_what_is_checked_here_would_be_noticed(image: Tensor) -> None:
    with fake_cuda(), pytest.raises(DataDependentOutputException):
        there(image).max().item()
    with fake_cuda():
        mixed = there(image), torch.ones(4, 3, 32, 32)
        with pytest.raises(RuntimeError, match="device"):
            torch.add(*mixed)


ONE_PASS = ("clip", "clipac", "maskclip", "vand", "coop", "anomalyclip", "aaclip", "visualad", "mvfa")
"""Methods that are one pass of the image tower."""


@pytest.mark.parametrize("name", ONE_PASS)
def test_a_method_of_one_pass_is_one_graph(name: str, image: Tensor) -> None:
    model, image, context = model_of(name), image[:2], Context(NAMES, PATHS)
    with torch.no_grad():
        text = model.text(NAMES)
        expected = model.score(image, text, context)
        torch.compiler.reset()
        found = torch.compile(model.score, fullgraph=True, backend="eager")(image, text, context)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)
    assert torch.equal(found.pred_score, expected.pred_score)
