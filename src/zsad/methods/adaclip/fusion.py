"""Hybrid semantic fusion of AdaCLIP: one vector for the most anomalous patches of an image, weighted by clusters."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["torch", "sklearn", "mean"]
Variant = Literal["released", "paper"]
Seed = Any
"""A number for a fresh generator, or a generator to draw on from: torch's, or NumPy's ``RandomState``."""
Cluster = Callable[[Tensor, int, Seed], Tensor]
"""Points (n, dim), number of clusters, seed -> cluster of each point, (n,) in 0 .. clusters - 1."""


def most_anomalous(logits: Tensor, number: int) -> Tensor:
    """Return the places of the ``number`` most anomalous patches of an image, (number,), the greatest first.

    Patches are ranked by the difference of the logits: the order of the probabilities, which saturate.

    Args:
        logits: Mean over the layers, (patches, 2), normal before anomalous.
        number: How many; all if there are not as many.
    """
    return (logits[:, 1] - logits[:, 0]).argsort(descending=True, stable=True)[:number]


def fuse(
    patches: Tensor,
    logits: Tensor,
    clusters: int,
    tokens_per_cluster: int,
    cluster: Cluster,
    seed: Seed,
    variant: Variant = "released",
    by_position: bool = False,
) -> Tensor:
    """Return the vector of an image's anomalous regions, (dim,), of unit length.

    Clusters only weight patches: gradients pass through the means, not through the clustering.

    Args:
        patches: Projected patch tokens of unit length, (layers, patches, dim).
        logits: Their logits, (layers, patches, 2).
        clusters: Greatest number of clusters; never more than there are points. Empty ones do not count.
        tokens_per_cluster: ``clusters * tokens_per_cluster`` patches are taken into account.
        cluster: How points are clustered.
        seed: What it draws from.
        variant: ``"released"``: the mean of the clusters' means over the most anomalous patches. ``"paper"``: the mean
            of the one cluster, among all patches, with the greatest mean probability of "anomalous".
        by_position: Hand the points over in their order in the image, not the most anomalous first: what is drawn then
            does not hang on how two nearly equal logits are rounded.
    """
    mean_logits, mean_patches = logits.mean(dim=0), patches.mean(dim=0)
    if variant == "paper":
        labels = cluster(mean_patches.detach(), min(clusters, len(mean_patches)), seed).to(patches.device)
        weight = _membership(labels, patches.dtype)
        winner = (weight.T @ mean_logits.detach().softmax(dim=-1)[:, 1]).argmax()
        return F.normalize(weight[:, winner] @ mean_patches, dim=-1)
    chosen = most_anomalous(mean_logits.detach(), clusters * tokens_per_cluster)
    if by_position:
        chosen = chosen.sort().values
    points = patches[:, chosen].detach().transpose(0, 1).flatten(1)  # (chosen, layers * dim)
    labels = cluster(points, min(clusters, len(chosen)), seed).to(patches.device)
    centres = _membership(labels, patches.dtype).T @ mean_patches[chosen]
    return F.normalize(centres.mean(dim=0), dim=-1)


def _membership(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (points, clusters that are not empty): one over the cluster's size where a point belongs to it."""
    member = F.one_hot(labels.long()).to(dtype)
    sizes = member.sum(dim=0)
    return member[:, sizes > 0] / sizes[sizes > 0]


@torch.no_grad()
def kmeans(points: Tensor, clusters: int, seed: Seed, iterations: int = 300) -> Tensor:
    """Return the cluster of each point, (n,), on the CPU.

    Greedy k-means++ once, then Lloyd until the labels stand still: the same distribution as scikit-learn's
    ``KMeans(n_init=1)``, with other random numbers.

    Args:
        points: (n, dim).
        clusters: At most ``n``; fewer come out if there are fewer different points.
        seed: A number, or a :class:`torch.Generator` of the CPU.
        iterations: Greatest number of Lloyd steps.

    References:
        Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007, with the greedy choice
        among ``2 + log(clusters)`` candidates of its section 7.
    """
    random = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    x = points.detach().cpu().double()
    between = torch.cdist(x, x).square()
    chosen = [int(torch.randint(len(x), (1,), generator=random))]
    nearest = between[chosen[0]]
    for _ in range(clusters - 1):
        if not nearest.max() > 0:
            break  # every point is a centre already
        candidates = torch.multinomial(nearest, 2 + int(math.log(clusters)), replacement=True, generator=random)
        closer = torch.minimum(nearest, between[candidates])
        best = int(closer.sum(dim=1).argmin())
        chosen.append(int(candidates[best]))
        nearest = closer[best]
    centres = x[chosen]
    labels = torch.cdist(x, centres).argmin(dim=1)
    for _ in range(iterations):
        member = F.one_hot(labels, len(centres)).double()
        sizes = member.sum(dim=0)[:, None]
        centres = torch.where(sizes > 0, member.T @ x / sizes.clamp_min(1), centres)
        new = torch.cdist(x, centres).argmin(dim=1)
        if torch.equal(new, labels):
            break
        labels = new
    return labels


def sklearn_kmeans(points: Tensor, clusters: int, seed: Seed) -> Tensor:
    """Return what scikit-learn's ``KMeans`` says, as the released code calls it.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError(
            "hsf_backend='sklearn' needs scikit-learn: pip install scikit-learn, or take hsf_backend='torch'."
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        labels = KMeans(clusters, n_init=1, random_state=seed).fit_predict(points.detach().cpu().float().numpy())
    return torch.from_numpy(labels).long()


def one_cluster(points: Tensor, clusters: int, seed: Seed) -> Tensor:
    """Return the same cluster for all points: the plain mean, without random numbers."""
    return torch.zeros(len(points), dtype=torch.long)


CLUSTERINGS: dict[Backend, Cluster] = {"torch": kmeans, "sklearn": sklearn_kmeans, "mean": one_cluster}
"""Backend -> clustering."""


class Draws:
    """Where a clustering's random numbers come from.

    Args:
        backend: Decides the kind of generator.
        seed: Of every generator.
        sequential: One generator that goes on from image to image, as in the released code; else a fresh one per image,
            so that an image's score depends on nothing but the image.
    """

    def __init__(self, backend: Backend, seed: int, sequential: bool) -> None:
        self.backend, self.seed, self.sequential = backend, seed, sequential
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._stream: Any = None
        if self.sequential:
            sklearn = self.backend == "sklearn"
            self._stream = np.random.RandomState(self.seed) if sklearn else torch.Generator().manual_seed(self.seed)

    def next(self) -> Seed:
        """Return what the next image draws from."""
        return self._stream if self.sequential else self.seed

    def state(self) -> Tensor | None:
        """Return where the stream stands, for a checkpoint; None if there is nothing to keep."""
        if not self.sequential:
            return None
        if isinstance(self._stream, torch.Generator):
            return self._stream.get_state()
        _, keys, place, *_ = self._stream.get_state()
        return torch.tensor([*map(int, keys), int(place)])

    def restore(self, state: Tensor | None) -> None:
        """Go on where :meth:`state` was taken."""
        if state is None or not self.sequential:
            return
        if isinstance(self._stream, torch.Generator):
            self._stream.set_state(state.cpu())
        else:
            self._stream.set_state(("MT19937", state[:-1].cpu().numpy().astype(np.uint32), int(state[-1]), 0, 0.0))
