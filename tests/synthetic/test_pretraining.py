"""The pretraining script computes what open_clip and the library's own wrapper compute."""

import importlib
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.blocks import two_path


@pytest.fixture(scope="module")
def text_phase(captions: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.mini_clip_text")


@pytest.fixture(scope="module")
def losses(captions: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.mini_clip_losses")


@pytest.fixture(scope="module")
def pictures(captions: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.mini_clip_pictures")


def test_towers_equal_open_clip_and_the_wrapper(text_phase: ModuleType, losses: ModuleType) -> None:
    torch.manual_seed(0)
    model = text_phase.build(40).eval()
    image = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        tokens, side = losses.blocks(model.visual, losses.embed(model.visual, image), with_vv=True)
        features = losses.project(model.visual, tokens[:, 0])
        torch.testing.assert_close(features, model.encode_image(image, normalize=True), atol=1e-5, rtol=1e-4)
        clip = Clip(model, "mini")
        state, _ = clip.run_image(clip.embed_image(image), two_path(1))
        torch.testing.assert_close(side, state.side[0], atol=1e-5, rtol=1e-4)
        rows = torch.tensor([[5, 7, 39, 1, 1], [5, 3, 9, 39, 1]])  # 39 ends a text, 1 pads it
        full = F.pad(rows, (0, 72), value=1)
        expected = model.encode_text(full)
        torch.testing.assert_close(text_phase.encode_text(model, rows), expected, atol=1e-5, rtol=1e-4)


def reference_dense(similarity: Tensor, patch: Tensor, temperature: float) -> float:
    total, weights, dice = 0.0, 0.0, []
    for row, labels in zip(similarity.tolist(), patch.tolist(), strict=True):
        pairs = [
            (1 / (1 + np.exp(-value / temperature)), label)
            for value, label in zip(row, labels, strict=True)
            if label >= 0
        ]
        for prob, label in pairs:
            weight = 4 if label else 1
            total -= weight * np.log(prob if label else 1 - prob)
            weights += weight
        if any(label for _, label in pairs):
            overlap = sum(prob * label for prob, label in pairs)
            dice.append(1 - (2 * overlap + 1) / (sum(prob + label for prob, label in pairs) + 1))
    return 2 * total / weights + float(np.mean(dice))


def test_dense_loss_equals_a_plain_loop(losses: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    similarity = 0.1 * torch.randn(4, 6, generator=generator)
    patch = torch.tensor([[1, 0, 0, -1, 0, 1], [0, 0, 0, 0, 0, 0], [-1, -1, 0, 0, 1, 0], [0, 1, 1, 1, 0, -1]])
    expected = reference_dense(similarity, patch, losses.TEMPERATURE)
    assert losses.dense_loss(similarity, patch).item() == pytest.approx(expected, rel=1e-5)


def test_windows_are_squares_labelled_by_their_patches(losses: ModuleType, pictures: ModuleType) -> None:
    rng = np.random.default_rng(0)
    patch = torch.from_numpy(rng.choice([-1, 0, 0, 0, 1], (16, 64)).astype(np.int8))
    batch = pictures.Pictures(torch.zeros(16, 3, 96, 96), patch, torch.zeros(16, 4, dtype=torch.int64))
    for _ in range(5):
        index, label = losses.random_windows(batch, rng)
        side = round(index.shape[1] ** 0.5)
        rows, columns = index // 8, index % 8
        for axis in (rows, columns):
            assert (axis.max(1).values - axis.min(1).values == side - 1).all()
        inside = patch.gather(1, index)
        expected = torch.where((inside == 1).any(1), 1, torch.where((inside == -1).any(1), -1, 0))
        assert torch.equal(label, expected)


def test_pool_labels_follow_the_pictures_through_turns_and_mirrors(pictures: ModuleType) -> None:
    pool = pictures.Pool(8, stream=3, fresh=0)
    for index in range(8):  # a picture whose brightness is its patch label
        pool.image[index] = np.kron(pool.patch[index] + 1, np.ones((12, 12), int))[..., None] * 100
    batch = pool.batch(8)
    brightness = F.avg_pool2d(batch.image[:, :1], 12).flatten(1)
    for level, label in zip(brightness, batch.patch, strict=True):
        assert torch.corrcoef(torch.stack([level, label.float()]))[0, 1] > 0.999 or not label.any()


def test_pool_draws_fresh_pictures_of_its_own_stream(pictures: ModuleType) -> None:
    pool = pictures.Pool(6, stream=4, fresh=2)
    before = pool.image.copy()
    pool.batch(4)
    changed = (pool.image != before).any((1, 2, 3))
    assert changed.tolist() == [True, True, False, False, False, False]
    assert pool.next_seed == 4 * 10**9 + 8
