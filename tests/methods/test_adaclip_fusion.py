"""Semantic fusion: clustering against scikit-learn, weights against their definition, where draws come from."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, quantiles

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.cluster import KMeans
from torch import Tensor

from zsad.methods.adaclip.fusion import Draws, fuse, kmeans, most_anomalous, one_cluster, sklearn_kmeans

FIXTURE = Path(__file__).parents[1] / "parity" / "fixtures" / "adaclip" / "hsf.safetensors"


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    """Three layers of tokens and logits of two images, and what the released code made of them."""
    return load_file(FIXTURE)


def layers(stored: dict[str, Tensor], image: int) -> tuple[Tensor, Tensor]:
    patches, logits = (torch.stack([stored[f"{name}.{n}"] for n in range(3)]) for name in ("tokens", "logits"))
    return patches[:, image], logits[:, image]


def points(stored: dict[str, Tensor], image: int) -> Tensor:
    patches, logits = layers(stored, image)
    return patches[:, most_anomalous(logits.mean(dim=0), 40)].transpose(0, 1).flatten(1)


def inertia(x: Tensor, labels: Tensor) -> float:
    parts = [x[labels == label] for label in labels.unique()]
    return float(sum((part - part.mean(dim=0)).square().sum() for part in parts))


@pytest.mark.parametrize("image", [0, 1])
def test_own_clustering_is_as_good_as_scikit_learns(stored: dict[str, Tensor], image: int) -> None:
    x = points(stored, image)
    own = [inertia(x, kmeans(x, 8, seed)) for seed in range(300)]
    theirs = [float(KMeans(8, n_init=1, random_state=seed).fit(x.numpy()).inertia_) for seed in range(300)]
    assert fmean(own) == pytest.approx(fmean(theirs), rel=0.01)
    assert quantiles(own, n=4) == pytest.approx(quantiles(theirs, n=4), rel=0.005)  # the tails are heavy
    assert fmean(own) == pytest.approx((36.8, 37.1)[image], rel=0.01)  # of the released code


def test_clustering_is_a_function_of_points_and_seed(stored: dict[str, Tensor]) -> None:
    x = points(stored, 0)
    assert torch.equal(kmeans(x, 8, 3), kmeans(x, 8, 3))
    assert any(not torch.equal(kmeans(x, 8, 3), kmeans(x, 8, seed)) for seed in range(4, 8))
    random = torch.Generator().manual_seed(3)
    assert torch.equal(kmeans(x, 8, random), kmeans(x, 8, 3))
    assert len(kmeans(x, 8, 3).unique()) == 8
    assert torch.equal(kmeans(x[:5], 5, 0).sort().values, torch.arange(5))


def test_separate_groups_are_found_and_equal_points_make_fewer_clusters() -> None:
    centres = 10 * torch.eye(4)
    groups = torch.arange(4).repeat_interleave(6)
    x = centres[groups] + 0.1 * torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    for seed in range(10):
        labels = kmeans(x, 4, seed)
        assert all(len(labels[groups == group].unique()) == 1 for group in range(4))
        assert len(labels.unique()) == 4
    same = torch.ones(6, 3)
    assert torch.equal(kmeans(same, 4, 0), torch.zeros(6, dtype=torch.long))
    patches = F.normalize(same, dim=-1)[None]
    for cluster in (kmeans, sklearn_kmeans):
        assert fuse(patches, torch.zeros(1, 6, 2), 4, 1, cluster, 0).isfinite().all()


def test_scikit_learns_draws_are_the_released_ones(stored: dict[str, Tensor]) -> None:
    for seed, expected in enumerate(stored["hsf.labels"]):
        draws = Draws("sklearn", seed, sequential=True)
        for image in range(2):
            assert torch.equal(sklearn_kmeans(points(stored, image), 8, draws.next()), expected[image].long())


def test_each_cluster_counts_once_and_gradients_pass_through_the_means(stored: dict[str, Tensor]) -> None:
    patches, logits = layers(stored, 0)
    patches = patches.clone().requires_grad_()
    chosen = most_anomalous(logits.mean(dim=0), 40)
    labels = kmeans(points(stored, 0), 8, 5)
    centres = [patches[:, chosen[labels == cluster]].flatten(0, 1).mean(dim=0) for cluster in range(8)]
    expected = F.normalize(torch.stack(centres).mean(dim=0), dim=-1)
    got = fuse(patches, logits, 8, 5, kmeans, 5)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(got.sum(), patches)
    touched = gradient.abs().sum(dim=(0, 2)) > 0
    assert torch.equal(touched.nonzero()[:, 0], chosen.sort().values)


def test_the_paper_form_takes_the_most_anomalous_cluster() -> None:
    directions = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]), dim=-1)
    groups = torch.tensor([0, 0, 1, 1, 1])
    patches = directions[groups][None].repeat(2, 1, 1)
    logits = torch.zeros(2, 5, 2)
    logits[:, 2:, 1] = 3.0
    torch.testing.assert_close(fuse(patches, logits, 2, 1, kmeans, 0, "paper"), directions[1])
    torch.testing.assert_close(fuse(patches, -logits, 2, 1, kmeans, 0, "paper"), directions[0])


def test_patches_are_ranked_where_probabilities_saturate() -> None:
    logits = torch.tensor([[0.0, 40.0], [0.0, 90.0], [0.0, -5.0], [0.0, 60.0]])
    assert (logits.softmax(dim=-1)[:, 1] == 1).sum() == 3
    assert most_anomalous(logits, 3).tolist() == [1, 3, 0]
    assert most_anomalous(logits, 9).tolist() == [1, 3, 0, 2]


def test_one_cluster_is_the_plain_mean(stored: dict[str, Tensor]) -> None:
    patches, logits = layers(stored, 1)
    chosen = most_anomalous(logits.mean(dim=0), 40)
    expected = F.normalize(patches[:, chosen].mean(dim=(0, 1)), dim=-1)
    torch.testing.assert_close(fuse(patches, logits, 8, 5, one_cluster, 0), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["torch", "sklearn"])
def test_a_stream_goes_on_where_it_stood(stored: dict[str, Tensor], backend: str) -> None:
    cluster = {"torch": kmeans, "sklearn": sklearn_kmeans}[backend]
    x = points(stored, 0)

    def run(draws: Draws, number: int) -> list[Tensor]:
        return [cluster(x, 8, draws.next()) for _ in range(number)]

    whole = run(Draws(backend, 1, True), 4)  # type: ignore[arg-type]
    assert not all(torch.equal(one, whole[0]) for one in whole[1:])
    draws = Draws(backend, 1, True)  # type: ignore[arg-type]
    run(draws, 2)
    state = draws.state()
    other = Draws(backend, 1, True)  # type: ignore[arg-type]
    other.restore(state)
    for expected, one, two in zip(whole[2:], run(draws, 2), run(other, 2), strict=True):
        assert torch.equal(one, expected)
        assert torch.equal(two, expected)
    draws.restart()
    assert torch.equal(run(draws, 1)[0], whole[0])
    fresh = Draws(backend, 1, False)  # type: ignore[arg-type]
    assert fresh.state() is None
    assert all(torch.equal(one, run(fresh, 1)[0]) for one in run(fresh, 3))
