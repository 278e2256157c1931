"""The panel: the images of a class that every image is compared with, what is known of them, and their file."""

import dataclasses
import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zsad.methods.memory import Memory, MissingReferencesError
from zsad.methods.musc.aggregation import Grid

_FORMAT = 1
_NOWHERE = "\0"  # begins the key of an image without a path: no path holds it
_NAMELESS = "<image>"


class MissingPanelError(MissingReferencesError):
    """An image cannot be scored alone: its class has no panel to compare it with."""


class PanelError(ValueError):
    """A panel does not fit the method, the folder or its own file."""


@dataclass(eq=False)
class Panel:
    """Images of one class that others are compared with.

    Attributes are tensors on the CPU; the M images stand in the order of their keys.
    """

    class_name: str
    keys: list[str]
    """Path of each image below the scored folder, with its fragment; see :func:`unnamed_keys` for those without."""
    hashes: list[str]
    """Digest of each image's pixels as the tower gets them."""
    tokens: dict[int, Tensor]
    """Layer -> (M, patches, width) float32 or float16."""
    cls: Tensor
    """(M, dim) unit-length embedding of each image."""
    patch_scores: Tensor
    """(M, patches) float32: mutual scores within the panel, averaged over layers and neighbourhoods."""
    maxima: Tensor
    """(M,) float32: maximum of each image's enlarged map."""
    grid: Grid
    """Rows and columns of patches."""
    size: tuple[int, int]
    """Height and width of the images as the tower gets them."""
    salient: Tensor | None = None
    """(M, width): feature of each image's most suspicious patch; MuSc-V2 only."""
    error: float | None = None
    """Half the mean difference between the scores from two halves of the panel; None below 4 images."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the numbers depend on; a method with other settings refuses the panel."""
    made: str = ""
    """When, ISO 8601."""
    drawn: bool = False
    """Whether it was drawn from the images that are scored (and not given, or made of normal references)."""
    subsets: bool = False
    """Whether each image was compared with a part of the panel only; new images cannot be scored then."""
    root: str = ""
    """Folder that the keys are relative to; "" if it is not known. Not stored."""

    def __len__(self) -> int:
        return len(self.keys)

    def __post_init__(self) -> None:
        # by both: folders that are scored together may hold files of one name
        pairs = zip(self.keys, self.hashes, strict=True)
        self._place = {pair: place for place, pair in enumerate(pairs) if not is_unnamed(pair[0])}
        self._by_hash: dict[str, int] = {}
        for place, digest in enumerate(self.hashes):
            self._by_hash.setdefault(digest, place)
        self.held: dict[Any, Tensor] = {}  # features by layer, neighbourhood and device, while there is room

    def place(self, path: str, digest: str) -> int | None:
        """Return which image of the panel this is, None if it is none: both path and pixels must agree."""
        if is_nameless(path) or digest not in self._by_hash:
            return None
        found = self._place.get((relative_key(path, self.root), digest))
        if found is None and not self.root:  # nobody said where the panel's images lie: compare the ends of the paths
            same = ((place, key) for (key, pixels), place in self._place.items() if pixels == digest)
            found = next((place for place, key in same if _end_alike(key, path)), None)
        return found

    def holds_pixels(self, digest: str) -> str | None:
        """Return the key of an image with the same pixels, None if there is none."""
        found = self._by_hash.get(digest)
        return None if found is None else self.keys[found]

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the scores of other images: the members' pixels and the settings."""
        text = json.dumps([sorted(self.hashes), self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def scale(self) -> tuple[float, float]:
        """Range for heat maps: from the 1 % to the 99.9 % quantile of the panel's patch scores."""
        ends = torch.tensor([0.01, 0.999])
        values = self.patch_scores.flatten()
        values = values[:: max(1, len(values) // 1_000_000)]  # torch.quantile takes 16 million at most
        low, high = torch.quantile(values, ends).tolist()
        return low, max(high, low + 1e-6)

    def save(self, path: Path) -> None:
        """Write the panel as one safetensors file; a kill leaves the old file or the whole new one."""
        plain = {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.name not in ("tokens", "cls", "patch_scores", "maxima", "salient", "root")
        }
        tensors = {f"tokens.{layer}": tensor.contiguous() for layer, tensor in self.tokens.items()}
        tensors |= {"cls": self.cls, "patch_scores": self.patch_scores, "maxima": self.maxima}
        if self.salient is not None:
            tensors["salient"] = self.salient
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        save_file(tensors, part, {"zsad_panel": json.dumps({"format": _FORMAT, **plain})})
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | Path) -> "Panel":
        """Return the panel of a file; tensors are read from it when they are used.

        Raises:
            FileNotFoundError: There is no such file.
            PanelError: It holds no panel, or one of another format.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No such panel: '{path}'. 'zsad score FOLDER --method musc' writes one.")
        try:
            with safe_open(path, framework="pt") as file:
                notes = json.loads((file.metadata() or {}).get("zsad_panel", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, ValueError) as error:
            raise PanelError(f"'{path}' cannot be read as a panel: {error}") from error
        if notes.pop("format", None) != _FORMAT:
            raise PanelError(f"'{path}' is no panel of this version of zsad; 'zsad score --method musc' writes one.")
        layers = sorted(int(name.removeprefix("tokens.")) for name in tensors if name.startswith("tokens."))
        tokens = {layer: tensors.pop(f"tokens.{layer}") for layer in layers}
        # copied, as a product's last digit depends on where its numbers lie in memory, and a file's lie anywhere
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        try:
            notes |= {name: (int(notes[name][0]), int(notes[name][1])) for name in ("grid", "size")}
            return cls(tokens=tokens, **tensors, **notes)
        except (TypeError, KeyError) as error:
            raise PanelError(f"'{path}' cannot be read as a panel: {error}") from error


class Panels(Memory):
    """The panels of all classes, in the place of the features of references; never part of a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._panels: dict[str, Panel] = {}

    @property
    def classes(self) -> list[str]:
        """Classes whose panel was given or made of references, sorted; drawn ones come and go with each run."""
        return sorted(name for name, panel in self._panels.items() if not panel.drawn)

    @property
    def names(self) -> list[str]:
        """Classes that have a panel, sorted."""
        return sorted(self._panels)

    def put(self, panel: Panel) -> None:
        """Set the panel of a class, in the place of an earlier one."""
        self._panels[panel.class_name] = panel

    def get(self, class_name: str) -> Panel | None:
        """Return the panel of a class, or None."""
        return self._panels.get(class_name)

    def drop(self, class_names: Iterable[str]) -> None:
        """Forget the panels of classes; unknown names do not matter."""
        for name in list(class_names):
            self._panels.pop(name, None)


# ---- keys


def unnamed_keys(number: int, first: int = 0) -> list[str]:
    """Return keys for images without a path; no path equals one."""
    return [f"{_NOWHERE}{place:08d}" for place in range(first, first + number)]


def is_unnamed(key: str) -> bool:
    """Return whether a key is one of :func:`unnamed_keys`."""
    return key.startswith(_NOWHERE)


def is_nameless(path: str) -> bool:
    """Return whether a path is only a position, or the name of a picture from memory: never that of a member."""
    return path.isdigit() or path == _NAMELESS or is_unnamed(path)


def relative_key(path: str, root: str | Path = "") -> str:
    """Return an image's path below a folder, with forward slashes; the path as it is if it lies elsewhere."""
    if root:
        try:
            path = str(PurePath(path).relative_to(root))
        except ValueError:
            path = str(path)
    return path.replace(os.sep, "/")


def _end_alike(key: str, path: str) -> bool:
    """Return whether one of two paths is the end of the other: the same file, named from two folders."""
    one, other = PurePath(key).parts, PurePath(path).parts
    number = min(len(one), len(other))
    return one[-number:] == other[-number:]


# ---- groups


def divide(paths: Sequence[str], number: int, seed: int = 42) -> list[list[int]]:
    """Return the released rule's subsets of a folder, as indices into ``paths``.

    Images are grouped by the name of the folder they lie in, in order of first appearance; each group is shuffled and
    dealt out. In the layout of MVTec AD these names say what the defect is, so the rule spreads labels evenly: it
    serves to reproduce tables.

    Args:
        paths: In file order.
        number: Number of subsets.
        seed: Of Python's generator, one for all groups.
    """
    groups: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        groups.setdefault(PurePath(path).parent.name, []).append(place)
    shuffler = random.Random(seed)
    subsets: list[list[int]] = [[] for _ in range(number)]
    for group in groups.values():
        shuffler.shuffle(group)
        for position, place in enumerate(group):
            subsets[position % number].append(place)
    return subsets


def halves(number: int) -> list[Tensor]:
    """Return two random halves of the panel, as sorted indices; the same ones every time."""
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0))
    return [half.sort().values for half in (order[: number // 2], order[number // 2 :])]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs between two sets of settings, in words; empty if nothing does."""
    now = json.loads(json.dumps(now))
    return "; ".join(
        f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    )
