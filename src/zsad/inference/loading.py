"""A method by its name, with its learned parameters."""

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a model needs is imported with the first one: importing this costs nothing
    import torch

    from zsad.clip import Clip
    from zsad.clip.backbone import Precision
    from zsad.decision import Card
    from zsad.images.tiling import Tiles
    from zsad.inference.predictor import Predictor
    from zsad.methods import Method

PUBLISHED = "published"
FIRST_LOOK: tuple[str, dict[str, Any]] = ("anovl", {"views": "none"})
"""Method and options for who names none: training-free, one pass of the image tower, maps of V-V attention."""


UNTRAINED = "untrained"


class SyntheticModelWarning(UserWarning):
    """The embedded synthetic model was taken although nobody named it."""


def load_model(
    name: str | None = None,
    backbone: "str | Clip | None" = None,
    checkpoint: str | Path | None = None,
    device: "str | torch.device" = "auto",
    batch_size: int = 8,
    explain: bool = False,
    calibration: "Card | str | Path | None" = None,
    offline: bool | None = None,
    accept_noncommercial: bool = False,
    precision: "Precision" = "32",
    window: tuple[float, float] | None = None,
    bits: int | None = None,
    max_pixels: int = 100_000_000,
    fast_decode: bool = False,
    tiles: "Tiles | None" = None,
    roi: str | None = None,
    ignore_mask: str | Path | None = None,
    **options: Any,
) -> "Predictor":
    """Return a method that is ready to score images.

    Args:
        name: Name of the method, see :func:`zsad.methods.list_methods`; case does not matter. Without one it is
            AnoVL without views, which needs one pass of the image tower and no training. With adapters,
            ``"anomalyclip/visa"``, it is the same as ``checkpoint="visa"``.
        backbone: Name for :func:`zsad.clip.load_clip`, or a loaded one. None is the checkpoint's or, without
            one, the paper's, which open_clip downloads on first use and finds in its cache afterwards; ``"published"``
            is the paper's in any case. ``"zsad-mini-2"`` is embedded and knows synthetic images only: its scores say
            nothing about real ones, and a checkpoint that brings it is loaded with a warning.
        checkpoint: Learned parameters: a checkpoint of ``zsad fit``, a file of ``save_weights``, the file that the
            paper's authors released, a folder of ``save_pretrained``, ``"hub:owner/repository@revision"``, or the name
            of published adapters (``"visa"``, see :func:`zsad.list_weights`), which are fetched once. None takes the
            published ones that were trained on VisA, where there are any; ``"untrained"`` asks by name to go without.
        device: ``"auto"`` for the first accelerator, or a torch device.
        batch_size: Images per forward pass.
        explain: Whether results carry an explanation; for methods that have one (ALFA).
        calibration: A card of 'zsad calibrate' or of :meth:`Predictor.calibrate`, or its file, for p-values and labels;
            ``"shipped"`` is the one that comes with the checkpoint.
        offline: True fetches no adapters; None leaves it to ``HF_HUB_OFFLINE`` and ``ZSAD_OFFLINE``.
        accept_noncommercial: Leave out the sentence about adapters whose data forbid commercial use.
        precision: Of the backbone's blocks, see :class:`Predictor`; a loaded backbone that is given is copied for it.
        window: Grey levels that become black and white in pictures of more than 8 bits and of floats.
        bits: Another way to say it: 12 stands for the window from 0 to 4095.
        max_pixels: A file with more pixels is refused before it is decoded.
        fast_decode: Decode JPEG files much larger than the model's input at a half to an eighth of their size, where
            results come at another size than the image's own; scores differ a little.
        tiles: How large pictures are cut into tiles that are scored one by one; None scores pictures whole.
        roi: X,Y,W,H in pixels or per cent (``"10%,10%,80%,80%"``) of what is cut out and scored.
        ignore_mask: Picture whose pixels above 0 do not count, of the size or the proportions of those scored.
        **options: Arguments of the method's class. They replace the checkpoint's where they decide nothing about what
            was learned (``sigma``, ``image_size``, ...), and are refused where they do. Paths, endpoints and language
            models are never taken from a checkpoint. For a transductive method (MuSc) ``panel`` may also be the file
            of a panel to score against.

    Raises:
        ValueError: The method, the adapters or the backbone are unknown, or a trained method of which nothing is
            published is asked for without a checkpoint.
        TypeError: The method has no such option.
        FileNotFoundError: The checkpoint or the weights of the backbone are not there.
        CheckpointError: The checkpoint is of another method or backbone, or no checkpoint of this library.

    Example:
        >>> from zsad import load_model
        >>> result = load_model("clip").predict(image, class_name="cork")  # doctest: +SKIP
        >>> result.save("heat_map.png")  # doctest: +SKIP
    """
    from zsad.clip import Clip
    from zsad.clip.embedded import EMBEDDED
    from zsad.clip.text_store import TextStore
    from zsad.images.levels import ReadOptions
    from zsad.images.where import Where
    from zsad.inference import adapters
    from zsad.inference.predictor import Predictor
    from zsad.inference.shipped import SHIPPED, shipped_card
    from zsad.methods import get_method
    from zsad.methods.pretrained import weights_file

    if name is None:
        name, options = FIRST_LOOK[0], {**FIRST_LOOK[1], **options}
    name, checkpoint = adapters.split_name(name, checkpoint)
    kind = get_method(name, by_hand=True)
    reading = ReadOptions(window, bits, max_pixels, fast_decode)
    panel = options.pop("panel") if kind.transductive and isinstance(options.get("panel"), (str, Path)) else None
    if backbone == PUBLISHED:
        backbone = kind.published_backbone
    place = None if checkpoint == UNTRAINED else checkpoint
    entry = None if checkpoint == UNTRAINED else adapters.choose(kind, checkpoint)
    if entry is not None:
        backbone = adapters.fitting_backbone(entry, backbone)
        checkpoint = adapters.fetch(entry, offline, accept_noncommercial).path
    elif checkpoint == UNTRAINED:
        checkpoint = None
    elif checkpoint is not None:
        checkpoint = weights_file(checkpoint, local_files_only=bool(offline))
    elif kind.learns():
        raise ValueError(
            f"{kind.__name__} learns parameters, and no checkpoint is given: its scores would be those of random ones. "
            f"Train it ('zsad fit --model {kind.__name__} --data ...') and pass checkpoint='....ckpt', "
            f"or ask for it by name with checkpoint='{UNTRAINED}'."
        )
    if calibration == SHIPPED:
        calibration = shipped_card(None if entry is not None else place, precision, bool(offline))
    if isinstance(backbone, Clip) and backbone.precision != precision:
        backbone = copy.deepcopy(backbone)  # others may use it as it is
    try:
        if checkpoint is None:
            method = kind(backbone=backbone or kind.published_backbone, **options)
        else:
            method = _restore(kind, checkpoint, backbone, options)
    except TypeError as error:
        raise TypeError(f"{kind.__name__} cannot be made with {sorted(options)}: {error}") from error
    method.clip.text_store = TextStore()
    if entry is not None:
        adapters.compare_tower(entry, method)
    if backbone is None and (mini := method.clip.name) in EMBEDDED:
        warnings.warn(
            f"The checkpoint '{checkpoint}' was trained on '{mini}', which knows synthetic images only: scores of real "
            f"images mean nothing. Name backbone='{mini}' to have no warning.",
            SyntheticModelWarning,
            stacklevel=2,
        )
    where = Where.of(roi, ignore_mask)
    return Predictor(method, device, batch_size, explain, panel, calibration, precision, reading, tiles, where)


def _restore(kind: Any, checkpoint: str | Path, backbone: "str | Clip | None", options: dict[str, Any]) -> "Method":
    from zsad.methods.restoring import restore
    from zsad.weights.checkpoints import is_ours, read_checkpoint

    saved = read_checkpoint(checkpoint)
    if not is_ours(saved) and hasattr(kind, "from_author_checkpoint"):
        restored: Method = kind.from_author_checkpoint(
            checkpoint, backbone=backbone or kind.published_backbone, **options
        )
        return restored
    method: Method = restore(kind, saved, backbone, options, str(checkpoint))
    return method
