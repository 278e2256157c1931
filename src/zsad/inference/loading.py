"""A method by its name, with its learned parameters."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from zsad.clip import Clip
from zsad.clip.loading import MINI
from zsad.inference.predictor import Predictor
from zsad.methods import CheckpointError, Method, get_method
from zsad.methods.trained import read_weights

PUBLISHED = "published"


UNTRAINED = "untrained"


_FOREIGN = "'{}' is not a checkpoint written by 'zsad fit' or a Trainer with a zsad method."


class SyntheticModelWarning(UserWarning):
    """The embedded synthetic model was taken although nobody named it."""


def load_model(
    name: str,
    backbone: str | Clip | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    batch_size: int = 8,
    explain: bool = False,
    **options: Any,
) -> Predictor:
    """Return a method that is ready to score images.

    Args:
        name: Name of the method, see :func:`zsad.methods.list_methods`; case does not matter.
        backbone: Name for :func:`zsad.clip.load_clip`, or a loaded one. None is the checkpoint's or, without
            one, the paper's, which open_clip downloads on first use and finds in its cache afterwards; ``"published"``
            is the paper's in any case. ``"zsad-mini"`` is embedded and knows synthetic images only: its scores say
            nothing about real ones, and a checkpoint that brings it is loaded with a warning.
        checkpoint: Learned parameters: a checkpoint of ``zsad fit``, a file of ``save_weights``, or the file that the
            paper's authors released. Trained methods need one; ``"untrained"`` asks by name to go without.
        device: ``"auto"`` for the first accelerator, or a torch device.
        batch_size: Images per forward pass.
        explain: Whether results carry an explanation; for methods that have one (ALFA).
        **options: Arguments of the method's class; they have precedence over those in the checkpoint. For a
            transductive method (MuSc) ``panel`` may also be the file of a panel to score against.

    Raises:
        ValueError: The method or the backbone is unknown, or a trained method is asked for without a checkpoint.
        TypeError: The method has no such option.
        FileNotFoundError: The checkpoint or the weights of the backbone are not there.
        CheckpointError: The checkpoint is of another method or backbone, or no checkpoint of this library.

    Example:
        >>> from zsad import load_model
        >>> result = load_model("clip").predict(image, class_name="cork")  # doctest: +SKIP
        >>> result.save("heat_map.png")  # doctest: +SKIP
    """
    kind = get_method(name)
    panel = options.pop("panel") if kind.transductive and isinstance(options.get("panel"), (str, Path)) else None
    if checkpoint == UNTRAINED:
        checkpoint = None
    elif checkpoint is None and kind.loss is not Method.loss:
        raise ValueError(
            f"{kind.__name__} learns parameters, and no checkpoint is given: its scores would be those of random ones. "
            f"Train it ('zsad fit --model {kind.__name__} --data ...') and pass checkpoint='....ckpt', "
            f"or ask for it by name with checkpoint='{UNTRAINED}'."
        )
    if backbone == PUBLISHED:
        backbone = kind.published_backbone
    try:
        if checkpoint is None:
            method = kind(backbone=backbone or kind.published_backbone, **options)
        else:
            method = _restore(kind, checkpoint, backbone, options)
    except TypeError as error:
        raise TypeError(f"{kind.__name__} cannot be made with {sorted(options)}: {error}") from error
    if backbone is None and method.clip.name == MINI:
        warnings.warn(
            f"The checkpoint '{checkpoint}' was trained on '{MINI}', which knows synthetic images only: scores of real "
            f"images mean nothing. Name backbone='{MINI}' to have no warning.",
            SyntheticModelWarning,
            stacklevel=2,
        )
    return Predictor(method, device, batch_size, explain, panel)


def _restore(kind: Any, checkpoint: str | Path, backbone: str | Clip | None, options: dict[str, Any]) -> Method:
    saved = read_checkpoint(checkpoint)
    if "zsad" not in saved:
        if not hasattr(kind, "from_author_checkpoint"):
            raise CheckpointError(_FOREIGN.format(checkpoint))
        backbone = backbone or kind.published_backbone
        restored: Method = kind.from_author_checkpoint(checkpoint, backbone=backbone, **options)
        return restored
    # Lightning's command line adds notes of its own, with an underscore in front
    stored = {name: value for name, value in saved.get("hyper_parameters", {}).items() if not name.startswith("_")}
    known = stored.pop("backbone", None)
    method: Method = kind(backbone=backbone or known or kind.published_backbone, **{**stored, **options})
    method.on_load_checkpoint(saved)
    method.load_state_dict(saved["state_dict"])
    return method


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return what is in a file of ``zsad fit``, of ``save_weights`` or of a paper's authors; no code in it is run.

    Returns:
        A Lightning checkpoint; one of ours has the key ``"zsad"``, and ``"state_dict"``.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It holds no dictionary of tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such checkpoint: '{path}'.")
    if path.suffix == ".safetensors":
        return read_weights(path)
    content: Any = None
    with suppress(Exception):  # whatever the file holds, the answer is the same
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise CheckpointError(_FOREIGN.format(path))
    return content
