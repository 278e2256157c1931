"""The 22 views: number, order, and what each keeps."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import shift

from zsad.methods.anovl.views import augmented_views


def test_there_are_21_besides_the_image_each_of_its_shape() -> None:
    image = torch.randn(2, 3, 16, 16)
    views = list(augmented_views(image))
    assert len(views) == 21
    assert all(view.shape == image.shape for view in views)


def test_flip_grey_and_quarter_turns_are_exact() -> None:
    image = torch.randn(1, 3, 8, 8)
    views = list(augmented_views(image))
    assert torch.equal(views[16], torch.from_numpy(image.numpy()[..., ::-1].copy()))
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(views[17][0, 1].numpy(), np.tensordot(weights, image[0].numpy(), 1), atol=1e-6)
    for turns, view in zip((1, 2, 3), views[18:], strict=True):
        np.testing.assert_array_equal(view[0, 0].numpy(), np.rot90(image[0, 0].numpy(), turns))


def test_shifts_move_the_picture_by_their_share_of_the_side() -> None:
    image = torch.randn(1, 3, 11, 11)
    view = list(augmented_views(image))[8]  # x and y by 0.2 of the half side: one pixel of 11
    expected = np.stack([shift(channel, (-1, -1), order=1, mode="mirror") for channel in image[0].numpy()])
    np.testing.assert_allclose(view[0].numpy(), expected, atol=1e-5)


def test_small_rotations_keep_a_round_picture() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 33), torch.linspace(-1, 1, 33), indexing="ij")
    blob = torch.exp(-4 * (x**2 + y**2)).expand(1, 3, 33, 33)
    for view in list(augmented_views(blob))[:8]:
        inner = slice(8, 25)
        torch.testing.assert_close(view[..., inner, inner], blob[..., inner, inner], atol=1e-2, rtol=0)
