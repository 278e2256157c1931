"""The models of a benchmark's cells: made, trained or fetched once, and kept until another is asked for."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch

from zsad.benchmark.grid import Cell, DataSpec, MethodSpec
from zsad.benchmark.identity import Identities
from zsad.benchmark.options import Options
from zsad.benchmark.train import source_for, trained
from zsad.clip import Clip
from zsad.clip.tensor_store import tensor_key
from zsad.inference import adapters
from zsad.methods import Method
from zsad.methods.trained import TrainedMethod
from zsad.weights import registry
from zsad.weights.registry import WeightsEntry


@dataclass
class Models:
    """Makes the model of a cell; the last one and its backbone are kept.

    Args:
        options: Backbone, training data and precision.
        identities: By which trained parameters are known again.
    """

    options: Options
    identities: Identities
    _clip: tuple[str, Clip] | None = None
    _hashes: "WeakKeyDictionary[Clip, str]" = field(default_factory=WeakKeyDictionary)
    _model: tuple[tuple[Any, ...], Method, Path | None] | None = None

    def of(self, cell: Cell, device: torch.device) -> tuple[Method, Path | None]:
        """Return the method of a cell on the device, trained if it needs to be, and its weights file."""
        kind = cell.method.kind
        learns = hasattr(kind, "training_stages")
        entry = self._published(cell) if learns and not self.options.train else None
        source = self._source(cell) if learns and entry is None else None
        seed = cell.seed if cell.method.seeded else None
        key = (cell.method.label, entry.name if entry is not None else source and source.label, seed)
        if self._model is None or self._model[0] != key:
            clip, weights = self._clip_of(cell.method), None
            if source is not None:
                accelerator = {"cuda": "gpu"}.get(device.type, device.type)
                method, weights = trained(
                    cell.method.at(cell.seed),
                    source,
                    cell.seed,
                    clip,
                    self.options.out,
                    self.options.epochs,
                    {"accelerator": accelerator, "devices": 1},
                    self.identities.training(cell.method.at(cell.seed), source),
                )
            elif entry is not None:
                weights = adapters.fetch(entry).path
                options = _without_backbone(cell.method.options)
                method = cast("type[TrainedMethod]", kind).from_weights(weights, backbone=clip, **options)
            else:
                method = kind(**{"backbone": clip, **_without_backbone(cell.method.at(cell.seed).options)})
            if self.options.precision != "32":
                method.clip = copy.deepcopy(method.clip).cast(self.options.precision)  # the next seed trains in float32
            self._model = (key, method.eval().to(device), weights)
        return self._model[1], self._model[2]

    def _source(self, cell: Cell) -> DataSpec:
        return source_for(cell.data, self.options.train, bool(cell.method.options.get("allow_same_data")))

    def _published(self, cell: Cell) -> WeightsEntry | None:
        """Return the published adapters of a cell without auxiliary data: the papers' pair, on their own backbone."""
        usual = registry.default_for(cell.method.name)
        backbone = self.options.backbone or cell.method.options.get("backbone") or cell.method.kind.published_backbone
        if usual is None or usual.backbone != backbone:
            return None
        return adapters.choose(cell.method.kind, None, cell.data.kind.name)

    def _clip_of(self, method: MethodSpec) -> Clip:
        """Return the backbone of a method, as the method itself loads it; the one of the method before is let go."""
        if self._clip is None or self._clip[0] != method.label:
            self._clip = None
            named = {"backbone": self.options.backbone} if self.options.backbone else {}
            self._clip = (method.label, method.kind(**{**method.options, **named}).clip)
        return self._clip[1]

    def backbone_hash(self, method: Method) -> str:
        """Return the SHA-256 of the weights of a method's backbone as it was loaded, computed once."""
        clip = self._clip[1] if self._clip else method.clip
        if clip not in self._hashes:
            digest = hashlib.sha256()
            for name, tensor in sorted(clip.model.state_dict().items()):
                digest.update(f"{name} {tensor_key(tensor)}".encode())
            self._hashes[clip] = digest.hexdigest()
        return self._hashes[clip]


def _without_backbone(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "backbone"}
