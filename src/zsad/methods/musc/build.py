"""Making a panel: tokens image by image, mutual scores unit by unit, each on the disk if a folder is given."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.tensor_store import CacheDtype, TokenCache
from zsad.methods.musc.aggregation import Grid
from zsad.methods.musc.mutual import Tick, mutual_scores
from zsad.methods.musc.panel import Panel, PanelError, divide, halves, is_unnamed

Unit = tuple[int, int]
"""Layer and side of the neighbourhood (0 for MuSc-V2, which has one set of features for all sides)."""


@dataclass(frozen=True)
class Member:
    """An image of the panel before it is opened."""

    key: str
    open: Callable[[], Tensor]
    """Returns the normalised image, (3, height, width)."""
    content: str = ""
    """Hash of its file, under which tokens are kept on the disk; needed with a folder only."""


class Encoder(Protocol):
    """What building needs of the method."""

    clip: Clip
    storage: CacheDtype
    interval: tuple[float, float]
    search: int | None
    memory_gb: float
    subsets: str | None
    subset_number: int
    subset_seed: int

    def units(self) -> list[Unit]:
        """Return layers with sides of neighbourhoods."""
        ...

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Return what is kept of images."""
        ...

    def features(self, tokens: Tensor, grid: Grid, unit: Unit) -> Tensor:
        """Return unit-length features of tokens."""
        ...

    def enlarged(self, patch_scores: Tensor, grid: Grid, size: tuple[int, int]) -> Tensor:
        """Return maps of patch scores."""
        ...

    def salient_features(self, tokens: Mapping[int, Tensor], patch_scores: Tensor, grid: Grid) -> Tensor | None:
        """Return the features of the most suspicious patches."""
        ...

    def digest(self, image: Tensor) -> str:
        """Return a hash of an image's pixels."""
        ...


class Entries:
    """What the tower said of each image: in memory, or in a folder of files that survives a kill."""

    def __init__(self, method: Encoder, folder: Path | None, before: Panel | None = None) -> None:
        self._method = method
        self._cache = None if folder is None else TokenCache(folder, method.storage)
        self._held: list[dict[str, Tensor] | str] = [] if before is None else _entries_of(before)

    def add(self, member: Member) -> None:
        """Take an image in; the tower sees it if it is not on the disk."""
        if self._cache is None:
            self._held.append(self._encode(member))
            return
        if member.content not in self._cache:
            self._cache.put(member.content, self._encode(member))
        self._held.append(member.content)

    def take(self, name: str) -> Tensor:
        """Return the tensors of that name of all images, (images, ...), and let go of single ones in memory."""
        found = torch.stack([self._one(entry, name) for entry in self._held])
        for entry in self._held:
            if isinstance(entry, dict):
                del entry[name]
        return found

    def _one(self, entry: dict[str, Tensor] | str, name: str) -> Tensor:
        if isinstance(entry, dict):
            return entry[name]
        assert self._cache is not None
        return self._cache.get(entry)[name]

    def _encode(self, member: Member) -> dict[str, Tensor]:
        image = member.open()
        entry = {name: tensor[0].cpu() for name, tensor in self._method.encode(image[None]).items()}
        # embedding and digest as bytes: a cache of half precision must not round them
        return {
            **entry,
            "cls": entry["cls"].view(torch.uint8),
            "digest": _bytes(self._method.digest(image)),
            "size": torch.tensor(image.shape[-2:]),
        }


def _bytes(digest: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)


def _entries_of(panel: Panel) -> list[dict[str, Tensor] | str]:
    """The entries that a panel was made of."""
    return [
        {
            **{f"tokens.{layer}": tokens[place] for layer, tokens in panel.tokens.items()},
            "cls": panel.cls[place].view(torch.uint8),
            "digest": _bytes(panel.hashes[place]),
            "size": torch.tensor(panel.size),
        }
        for place in range(len(panel))
    ]


class Progress:
    """Told how far the making of a panel is; this one says nothing."""

    def start(self, what: str, total: float) -> None:
        """Begin a pass of ``total`` steps."""

    def advance(self, steps: float) -> None:
        """Steps are done."""


@torch.no_grad()
def build_panel(
    method: Encoder,
    class_name: str,
    members: Sequence[Member],
    folder: Path | None = None,
    progress: Progress | None = None,
    before: Panel | None = None,
    least: int = 2,
) -> Panel:
    """Return the panel of these images.

    Images go through the tower one by one, so that a panel does not depend on what they share a batch with.

    Args:
        method: MuSc.
        class_name: The class.
        members: In the order of their keys.
        folder: Where to keep what is computed until the whole is there: a run that was killed continues from it.
        progress: Told about both passes: images through the tower, then products.
        before: A panel whose images are in the new one as well.
        least: Fewest images; a single one can serve as a normal reference, but has no score itself.

    Raises:
        PanelError: Fewer images, or images of different sizes.
    """
    keys = [*(before.keys if before else ()), *(member.key for member in members)]
    if len(keys) < least:
        raise PanelError(
            f"Class '{class_name}': a panel of {len(keys)} image(s) is none. MuSc compares images of one product "
            f"with each other and needs at least 2, better 30 or more."
        )
    groups = _groups(method, class_name, keys)
    progress = progress or Progress()
    entries = Entries(method, None if folder is None else folder / "tokens", before)
    progress.start("panel: images", len(members))
    for member in members:
        entries.add(member)
        progress.advance(1)
    size = _one_size(class_name, entries.take("size"))
    grid = method.clip.grid(torch.empty(0, 3, *size))
    tokens = {layer: entries.take(f"tokens.{layer}") for layer in sorted({layer for layer, _ in method.units()})}
    progress.start("panel: comparing", len(method.units()))
    scores = sum(
        _unit(method, unit, tokens[unit[0]], grid, groups, folder, progress).double() for unit in method.units()
    )
    assert isinstance(scores, Tensor)
    mean = (scores / len(method.units())).float()
    maxima = torch.stack([_maxima(method, one, grid, size) for one in mean])
    return Panel(
        class_name=class_name,
        keys=keys,
        hashes=[bytes(one.tolist()).hex() for one in entries.take("digest")],
        tokens=tokens,
        cls=entries.take("cls").view(torch.float32),
        patch_scores=mean[0].contiguous(),
        maxima=maxima[0].contiguous(),
        grid=grid,
        size=size,
        salient=method.salient_features(tokens, mean[0], grid),
        error=float((maxima[1] - maxima[2]).abs().mean() / 2) if len(maxima) == 3 else None,
        made=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        subsets=len(groups) > 1,
    )


def _one_size(class_name: str, sizes: Tensor) -> tuple[int, int]:
    found = sorted({(int(height), int(width)) for height, width in sizes})
    if len(found) > 1:
        raise PanelError(f"Class '{class_name}': a panel needs images of one size, got {found} (height, width).")
    return found[0]


def _groups(method: Encoder, class_name: str, keys: Sequence[str]) -> list[Tensor]:
    """The sets of images that are scored apart: one, or the released rule's."""
    if method.subsets is None:
        return [torch.arange(len(keys))]
    if any(map(is_unnamed, keys)):
        raise PanelError("subsets='by_folder_name' divides images by their paths: give fit_panel paths as well.")
    groups = divide(keys, method.subset_number, method.subset_seed)
    if min(map(len, groups)) < 2:
        raise PanelError(
            f"Class '{class_name}': {len(keys)} images in {method.subset_number} subsets leave one with fewer than "
            f"2 images; take a smaller subset_number."
        )
    return [torch.tensor(group) for group in groups]


def _unit(
    method: Encoder,
    unit: Unit,
    tokens: Tensor,
    grid: Grid,
    groups: Sequence[Tensor],
    folder: Path | None,
    progress: Progress,
) -> Tensor:
    """Mutual scores of one layer and one neighbourhood, (1 or 3, images, patches): of all, and of both halves."""
    path = None if folder is None else folder / f"scores_l{unit[0]}_r{unit[1]}.safetensors"
    if len(tokens) == 1:
        progress.advance(1)
        return torch.zeros(1, 1, tokens.shape[1])
    if path is not None and path.is_file():
        try:
            stored = load_file(path)["scores"]
            progress.advance(1)
            return stored
        except (SafetensorError, KeyError):
            path.unlink()
    told = [0.0]

    def tick(share: float) -> None:
        progress.advance(share - told[0])
        told[0] = share

    if len(groups) == 1:
        number = len(tokens)
        columns = [torch.arange(number), *(halves(number) if number >= 4 else ())]
        result = _scored(method, unit, tokens, grid, columns, tick).cpu()
    else:
        result = torch.empty((1, len(tokens), tokens.shape[1]))
        for group in groups:  # the released rule knows no other images
            some = tokens[group]
            result[:, group] = _scored(method, unit, some, grid, [torch.arange(len(group))], lambda share: None).cpu()
        tick(1.0)
    if path is not None:
        part = path.with_suffix(".part")
        save_file({"scores": result.contiguous()}, part)
        part.replace(path)
    return result


def _scored(method: Encoder, unit: Unit, tokens: Tensor, grid: Grid, columns: Sequence[Tensor], tick: Tick) -> Tensor:
    memory, number, patches = method.memory_gb * 1e9, len(tokens), tokens.shape[1]
    table, slab = 4 * number * number * patches, 4 * tokens.numel()
    features: Any = lambda first, stop: method.features(tokens[first:stop], grid, unit)  # noqa: E731
    if slab + table <= memory or (table > memory and slab <= memory / 2):  # else pooled again whenever they are needed
        pooled = torch.cat([features(first, first + 8) for first in range(0, number, 8)])
        features = lambda first, stop: pooled[first:stop]  # noqa: E731
        memory -= slab if table > memory else 0
    return mutual_scores(
        features,
        method.interval,
        number=number,
        columns=columns,
        grid=grid,
        search=method.search,
        memory=memory,
        tick=tick,
    )


def _maxima(method: Encoder, patch_scores: Tensor, grid: Grid, size: tuple[int, int]) -> Tensor:
    """Maximum of each image's enlarged map, some images at a time."""
    return torch.cat([method.enlarged(part, grid, size).amax(dim=(1, 2)) for part in patch_scores.split(8)])
