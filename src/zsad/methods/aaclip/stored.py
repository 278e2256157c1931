"""AA-CLIP's files: one stage's adapters, a checkpoint with its frozen anchors, the authors' files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from zsad.clip import Clip
from zsad.methods.aaclip.adapters import (
    StoredAdapter,
)
from zsad.methods.aaclip.options import STAGES, Stage
from zsad.methods.aaclip.training import Training
from zsad.methods.base import Method
from zsad.weights.checkpoints import CheckpointError


class Stored(Training):
    """Reading and writing of what the stages have learned."""

    _arriving: dict[str, Tensor]

    @classmethod
    def from_author_checkpoint(
        cls, text_file: str | Path, image_file: str | Path, backbone: str | Clip | None = None, **options: Any
    ) -> Self:
        """Return a model with weights that the authors' released training wrote.

        The files do not say which lambda they were trained with: give ``lambda_text`` and ``lambda_image`` if not 0.1.

        Args:
            text_file: ``text_adapter.pth``.
            image_file: ``image_adapter_<epoch>.pth``; the published numbers are epoch 15's.
            backbone: Backbone name or a loaded one; None for the published one.
            **options: Other arguments of the class.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file holds something else.
        """
        backbone = cls.published_backbone if backbone is None else backbone
        return cls(backbone, stage="image", text_checkpoint=text_file, image_checkpoint=image_file, **options)

    def _take(self, which: Stage, stored: StoredAdapter | None) -> None:
        """Load one stage's parameters from a file and mark the stage as finished."""
        if stored is None:
            return
        if not stored.by_authors:
            self._check_source(which, stored)
        module = self.text_adapter if which == "text" else self.image_adapter
        wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in stored.state.items()}
        if wanted != found:
            differ = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
            raise CheckpointError(
                f"The stored {which} adapters do not fit this model, first at '{differ[0]}': expected shape "
                f"{wanted.get(differ[0])}, found {found.get(differ[0])}. They belong to another backbone or to other "
                f"options."
            )
        module.load_state_dict(stored.state)
        self.finished[STAGES.index(which)] = True
        unknown = [{"name": f"unknown data (the authors' {which} adapters)"}]
        self.trained_on = unknown if stored.by_authors else stored.checkpoint.get("zsad", {}).get("trained_on", [])

    def _check_source(self, which: Stage, stored: StoredAdapter) -> None:
        made = stored.checkpoint.get("zsad", {})
        Method.on_load_checkpoint(self, {"zsad": made, "state_dict": self.state_dict()})  # same method and backbone?
        finished = stored.checkpoint["state_dict"].get("finished", torch.zeros(2))
        if not bool(finished[STAGES.index(which)]):
            raise CheckpointError(f"The {which} stage of that checkpoint is not finished: resume it with ckpt_path.")
        options = stored.checkpoint.get("hyper_parameters", {})
        for key in (f"lambda_{which}", "activation"):
            if options.get(key, self.hparams[key]) != self.hparams[key]:
                raise CheckpointError(
                    f"The {which} adapters were trained with {key}={options[key]!r}, this model has "
                    f"{self.hparams[key]!r}; give the same value."
                )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load learned parameters; frozen anchors are replaced by those of the same checkpoint."""
        self._frozen, self._arriving = self._arriving, {}
        return super().load_state_dict(state_dict, strict, assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the stage and the frozen anchors."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["zsad"]["stage"] = self.stage
        if self._frozen:
            checkpoint["zsad"]["anchor_keys"] = list(self._frozen)
            checkpoint["zsad"]["anchors"] = torch.stack([row.cpu() for row in self._frozen.values()])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what does not fit; see :meth:`Method.on_load_checkpoint`.

        Raises:
            CheckpointError: Also if one stage's fit is to be resumed from the other stage's checkpoint.
        """
        super().on_load_checkpoint(checkpoint)
        made = checkpoint.get("zsad", {})
        fitting = self._trainer is not None and self._trainer.state.fn == "fit"
        if fitting and made.get("stage", self.stage) != self.stage:
            raise CheckpointError(
                f"A fit with stage='{self.stage}' cannot resume from a checkpoint of stage='{made['stage']}'; to start "
                f"the second stage from the first, give it as text_checkpoint instead."
            )
        self._arriving = dict(zip(made.get("anchor_keys", ()), made.get("anchors", ()), strict=True))
