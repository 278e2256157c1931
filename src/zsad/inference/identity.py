"""What decides a model's scores, as a calibration card keeps it: names, hashes of contents, the image protocol."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zsad.clip.loading import is_named
from zsad.clip.tensor_store import tensor_key, tower_key
from zsad.decision import Card, CardError
from zsad.decision.card import TORCH
from zsad.images import list_images, load_rgb
from zsad.images.tiling import Tiles
from zsad.inference.inputs import pixel_digest
from zsad.methods import METHODS, Method
from zsad.methods.few_shot import draw
from zsad.methods.musc import Transductive
from zsad.methods.restoring import constructor_options, fits, may_be_stored

_NOT_OPTIONS = frozenset({"backbone", "references", "shots", "shot_seed", "panel", "metrics", "prompts_cache"})
_HASHED = frozenset({"cache_dir", "llm_cache"})


def model_identity(
    method: Method,
    class_name: str | None = None,
    precision: str = "32",
    runtime: str = TORCH,
    tiles: Tiles | None = None,
) -> dict[str, Any]:
    """Return what decides the scores of a method, for :meth:`zsad.decision.Card.require`.

    Args:
        method: Loaded.
        class_name: Class whose reference images count; without one, all of them do.
        precision: As the door was asked for it.
        runtime: What computes, one of :data:`zsad.decision.card.RUNTIMES`.
        tiles: How pictures are cut.
    """
    return {
        "method": type(method).__name__,
        "options": own_options(method),
        "backbone": method.clip.name,
        "backbone_weights": method.clip.weights_key()[:16],
        "learned_parameters": tower_key(method, {})[:16],
        "references": _references_key(method, class_name),
        "precision": precision,
        "runtime": runtime,
        "panel": panel_key(method, class_name),
        "tiles": None if tiles is None else tiles.identity(),
    }


def shown_backbone(method: Method) -> str:
    """Return the backbone's name for people elsewhere: of a file of this machine, the model alone."""
    name = method.clip.name
    return name if is_named(name) else f"{name.partition('/')[0]}/<file>"


def protocol_identity(method: Method) -> dict[str, Any]:
    """Return how an image file becomes the method's input, masks left out."""
    return {name: _plain(value) for name, value in asdict(method.protocol).items() if name != "mask_resize"}


def own_options(method: Method) -> dict[str, Any]:
    """Return the options that differ from the defaults, as JSON has them."""
    defaults = {name: one.default for name, one in constructor_options(type(method)).items()}
    found = {}
    for name, value in sorted(method.hparams.items()):
        if name.startswith("_") or name in _NOT_OPTIONS or name in _HASHED or value == defaults.get(name):
            continue
        found[name] = _plain(value)
    return found


def options_from_card(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a card that a file may decide: numbers, switches, and words of a known list.

    Raises:
        ValueError: The card names a method that is not registered, or an option that only a person may give.
    """
    kind = next((one for key, one in METHODS.items() if name.lower() in (key, one.__name__.lower())), None)
    if kind is None:
        raise ValueError(f"The card is of method '{name}', which is not registered: give it with --method.")
    known = constructor_options(kind)
    for option, value in options.items():
        hint = known[option].annotation if option in known else None
        word = isinstance(value, str) and option in kind.word_options
        if hint is None or not (word or (may_be_stored(hint) and fits(value, hint))):
            raise ValueError(
                f"The card says {option}={value!r}, which is not taken from a file: give it by hand "
                f"(--option {option}=...) if it is meant."
            )
    return dict(options)


def reference_paths(method: Method, class_name: str) -> list[Path]:
    """Return the files that a method takes as references of a class; none if they are not in a folder."""
    if method.references is None:
        return []
    folder = method.references / class_name
    folder = folder if folder.is_dir() else method.references
    paths = [path for path in list_images([folder]) if folder != method.references or path.parent == folder]
    chosen = draw(len(paths), method.shots, method.shot_seed, class_name, method.draw_with_replacement)
    return [paths[place] for place in dict.fromkeys(chosen)]


def reference_digests(method: Method, class_name: str) -> list[str]:
    """Return the pixel digests of a class's reference images."""
    return [pixel_digest(load_rgb(path, method.reading)) for path in reference_paths(method, class_name)]


def check_card(
    card: Card, method: Method, precision: str = "32", runtime: str = TORCH, tiles: Tiles | None = None
) -> None:
    """Refuse a card of another model, and references that calibrated it.

    Raises:
        CardError: The message names both values, or the reference image.
    """
    own = model_identity(method, next(iter(card.classes)), precision, runtime, tiles)
    for name in card.classes:  # references are per class
        of_class = {"references": _references_key(method, name), "panel": panel_key(method, name)}
        card.require({**own, **of_class}, protocol_identity(method), name)
        for path in reference_paths(method, name):
            if card.overlap([pixel_digest(load_rgb(path, method.reading))]):
                raise CardError(
                    f"'{path}' is a reference image of the method and one of the card's calibration images: scores of "
                    f"images that the method has seen are no measure of others. Take one of them out."
                )


def panel_key(method: Method, class_name: str | None) -> str | None:
    """Return a hash of the panel that was given for a class; None without one, or if it is drawn from the images."""
    if not isinstance(method, Transductive) or class_name is None:
        return None
    panel = method.memory.get(class_name)
    if panel is None or panel.drawn:
        return None
    return panel.digest[:16]


def _references_key(method: Method, class_name: str | None) -> str | None:
    if method.references is not None:
        names: Sequence[str] = (
            sorted(pixel_digest(load_rgb(path)) for path in list_images([method.references]))
            if class_name is None
            else sorted(reference_digests(method, class_name))
        )
    elif method.memory.classes and (class_name is None or class_name in method.memory.classes):
        chosen = method.memory.classes if class_name is None else [class_name]
        names = [
            f"{name}/{kind}/{tensor_key(bank)}"
            for name in chosen
            for kind, bank in sorted(method.memory.banks(name).items())
        ]
    else:
        return None
    return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
