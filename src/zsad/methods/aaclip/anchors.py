"""AA-CLIP's text side: anchors of each class, frozen once the first stage is finished."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from zsad.clip.blocks import adapters
from zsad.methods.aaclip.adapters import (
    TextAdapter,
    unit,
)
from zsad.methods.aaclip.options import (
    Stage,
)
from zsad.methods.trained import TrainedMethod
from zsad.prompts import Prompts
from zsad.weights.checkpoints import CheckpointError


class Anchors(TrainedMethod):
    """Anchors of normal and anomalous, by text adapters or plain CLIP."""

    text_adapter: TextAdapter
    lambda_text: float
    plain_anchors: bool
    stage: Stage
    benchmark: str | None
    prompts: Prompts
    finished: Tensor
    """(2,) bool: which of :data:`STAGES` are."""
    _frozen: dict[str, Tensor]
    _known: tuple[tuple[int, int], tuple[bool, bool]] | None = None

    @property
    def finished_stages(self) -> tuple[bool, bool]:
        """Which stages are finished; the device is asked when that may have changed, not in every pass."""
        state = id(self.finished), 0 if self.finished.is_inference() else self.finished._version
        if self._known is None or self._known[0] != state:
            text, image = self.finished.tolist()
            self._known = state, (text, image)
        return self._known[1]

    def describe(self, class_name: str) -> str:
        """Return the class's key in the prompt list, ``"<benchmark>/<class>"``, or the name itself if it has none."""
        key = f"{self.benchmark}/{class_name}"
        return key if key in self.prompts.class_aliases else class_name

    def class_prompts(self, class_name: str) -> tuple[list[str], list[str]]:
        """Return the normal and the anomalous prompts of a class; ``"visa/pcb1"`` names one of a certain benchmark."""
        return self.prompts.compose(self.describe(class_name), "readable")

    def prompt_embeddings(self, texts: Sequence[str], chunk: int = 256) -> Tensor:
        """Return adapted embeddings (texts, dim), not normalised, with gradient to the text adapters.

        Args:
            texts: Prompts.
            chunk: Texts per forward pass.
        """
        if self.plain_anchors:
            return self.clip.encode_prompts(texts, chunk)
        ids = self.clip.tokenizer(list(texts))
        length = int(ids.argmax(dim=-1).max()) + 1  # causal tower: what stands after the end has no influence
        ids = ids.to(self.clip.causal_mask.device)
        *blocks, projection = self.text_adapter
        step = adapters(blocks, self.lambda_text, self.clip.causal_mask[:length, :length])
        parts = [self.clip.run_text(self.clip.embed_text(part), part, step) for part in ids[:, :length].split(chunk)]
        return projection(torch.cat(parts))

    def anchors(self, class_names: Sequence[str]) -> Tensor:
        """Return unit-length anchors (classes, 2, dim), row 0 normal, row 1 anomalous, computed now, with gradient."""
        sides = [side for name in class_names for side in self.class_prompts(name)]
        embeddings = self.prompt_embeddings([text for side in sides for text in side])
        rows = [unit(unit(part).mean(dim=0)) for part in embeddings.split([len(side) for side in sides])]
        return torch.stack(rows).unflatten(0, (-1, 2))

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return the anchors of each class without gradient; the text tower runs only for those not yet frozen."""
        keys = {name: self._key(name) for name in class_names}
        new = list({key: name for name, key in keys.items() if key not in self._frozen}.values())
        known = dict(self._frozen)
        if new:
            with torch.inference_mode(False), torch.no_grad():  # kept beyond this call, and needed in training
                made = self.anchors(new)
            known.update({keys[name]: row for name, row in zip(new, made, strict=True)})
            if self._text_done:
                self._frozen = known
        return torch.stack([known[keys[name]].to(self.device) for name in class_names])

    def freeze_anchors(self, class_names: Sequence[str]) -> None:
        """Compute the anchors of these classes once and for all; they travel in the checkpoint.

        Raises:
            CheckpointError: If the first stage is not finished.
        """
        if not self._text_done:
            raise CheckpointError("Anchors can be frozen after the first stage only: the text adapters are untrained.")
        self.text_features(list(class_names))

    @property
    def _text_done(self) -> bool:
        return self.stage == "image" and (self.plain_anchors or self.finished_stages[0])

    def _key(self, class_name: str) -> str:
        normal, anomalous = self.class_prompts(class_name)
        return hashlib.sha256("\n".join([*normal, "", *anomalous]).encode()).hexdigest()
