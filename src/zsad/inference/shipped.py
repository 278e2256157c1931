"""Cards that travel with learned parameters: beside them in a folder or on the Hub, or inside a checkpoint."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save

from zsad.decision import Card, CardError
from zsad.decision.card import TORCH
from zsad.decision.card_json import from_json
from zsad.methods.pretrained import CARDS, cards_folder, write_cards
from zsad.weights.checkpoints import CheckpointError, CheckpointFiles, is_ours, local_file, read_checkpoint
from zsad.weights.files import write_whole

SHIPPED = "shipped"
"""In place of a card's path: the one that comes with the checkpoint."""
KEY = "calibration"
"""Among what a checkpoint says of itself (``zsad``): its cards, a list."""


def shipped_cards(place: str | Path, local_files_only: bool = False) -> list[Card]:
    """Return the cards that come with learned parameters; none if there are none.

    Args:
        place: A checkpoint or weights file, a folder of ``save_pretrained``, or ``"hub:owner/repository@revision"``.
        local_files_only: Open no connection.

    Raises:
        CardError: One of them is no card.
        FileNotFoundError: There is no such file.
        CheckpointError: The file is no checkpoint.
    """
    folder = cards_folder(place, local_files_only)
    if folder is not None:
        return [Card.load(path) for path in sorted(folder.glob(f"{CARDS}/*.json"))]
    saved = read_checkpoint(place)
    content = saved["zsad"].get(KEY) if is_ours(saved) else None
    if not isinstance(content, (list, type(None))):
        raise CardError(f"'{place}' carries something that is no list of calibration cards.")
    try:
        return [Card(**from_json(one)) for one in content or []]
    except CardError as error:
        raise CardError(f"'{place}' carries something that is no calibration card: {error}") from error


def shipped_card(place: str | Path | None, precision: str = "32", local_files_only: bool = False) -> Card:
    """Return the card that comes with learned parameters, its classes together.

    Args:
        place: As for :func:`shipped_cards`.
        precision: Of the model that is to be judged; cards of others are passed over.
        local_files_only: Open no connection.

    Raises:
        CardError: There is none, or there are several that do not go together.
    """
    if place is None:
        raise CardError(f"The calibration '{SHIPPED}' comes with a checkpoint: name one, or give a card's file.")
    cards = shipped_cards(place, local_files_only)
    fitting = [one for one in cards if (one.model.get("runtime"), one.model.get("precision")) == (TORCH, precision)]
    if not fitting:
        kinds = sorted({f"{one.model.get('precision')} in {one.model.get('runtime')}" for one in cards})
        others = f", only for precision {', '.join(kinds)}" if cards else ""
        raise CardError(
            f"'{place}' ships no calibration card for precision {precision}{others}: make one with 'zsad calibrate', "
            f"whose --into puts it there."
        )
    made = fitting[0]
    for one in fitting[1:]:
        made.require(one.model, one.protocol)
        if made.pooled or one.pooled or (twice := set(made.classes) & set(one.classes)):
            which = "a pooled card beside others" if made.pooled or one.pooled else f"two cards of {sorted(twice)}"
            raise CardError(f"'{place}' ships {which}: take the one that is meant out, or give it by its file.")
        for name, entry in one.classes.items():
            made = made.with_class(name, entry)
    return made


def ship(card: Card, place: str | Path) -> Path:
    """Put a card into a folder of ``save_pretrained``, or into a checkpoint or weights file, and return where it is.

    A card of the same classes, precision and runtime that is there is replaced.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is none of this library, or of another method.
    """
    content = json.loads(card.to_json())
    if Path(place).is_dir():
        return write_cards(Path(place), [content])[0]
    path = local_file(place)
    saved = read_checkpoint(path)
    if not is_ours(saved):
        raise CheckpointError(f"'{path}' was not written by zsad: a card goes beside it, not into it.")
    if (method := saved["zsad"].get("method")) != card.model["method"]:
        raise CheckpointError(f"'{path}' holds parameters of {method}, the card is of {card.model['method']}.")
    cards = [*_others(saved["zsad"].get(KEY) or [], content), content]
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["zsad"]) | {KEY: cards}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return write_whole(path, save(tensors, metadata={"zsad": json.dumps(about)}))
    saved["zsad"][KEY] = cards
    CheckpointFiles().save_checkpoint(saved, path)
    return path


def _others(there: Iterable[Any], new: dict[str, Any]) -> list[Any]:
    """The cards that the new one does not replace, without its classes where they have more."""
    kept = []
    for one in there:
        same = all(one["model"].get(key) == new["model"].get(key) for key in ("precision", "runtime"))
        left = {name: entry for name, entry in one["classes"].items() if not (same and name in new["classes"])}
        if left:
            kept.append({**one, "classes": left})
    return kept
