"""Learned parameters as a folder that others can use: written, read, and exchanged with the Hugging Face Hub."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zsad import __version__
from zsad.clip.loading import hub_repository
from zsad.methods.author_files import weights_path
from zsad.weights import card
from zsad.weights.checkpoints import CheckpointError
from zsad.weights.expected import DownloadError, digest
from zsad.weights.fetch import UnreachableError
from zsad.weights.files import write_whole
from zsad.weights.hub import endpoint, hub_file, hub_files, is_of_network
from zsad.weights.places import offline_reason
from zsad.weights.registry import table
from zsad.weights.sources import NotHereError

ADAPTERS = "adapters.safetensors"
CONFIG = "config.json"
CARDS = "calibration"
"""Folder of the calibration cards that come with the parameters."""
_HUB = "hub:"


def weights_file(
    place: str | Path, revision: str | None = None, token: str | bool | None = None, local_files_only: bool = False
) -> Path:
    """Return the file of learned parameters at a place: itself, inside a folder, or in a repository of the Hub.

    Args:
        place: Path of a file or of a folder of ``save_pretrained``, or ``"hub:owner/repository@revision"``.
        revision: Branch, tag or commit of a repository.
        token: For private repositories; by default the Hub's own settings.
        local_files_only: Take a repository from the Hub's cache, without any connection.

    Raises:
        CheckpointError: A folder holds no adapters.
        FileNotFoundError: A repository is not here and there is no network.
        DownloadError: The Hub has no such repository or file.
    """
    text = str(place)
    if not text.startswith(_HUB):
        path = Path(place)
        if not path.is_dir():
            return path
        if not (path / ADAPTERS).is_file():
            raise CheckpointError(
                f"The folder '{path}' holds no {ADAPTERS}: give one of save_pretrained, or a checkpoint's path."
            )
        return path / ADAPTERS
    repository, _, named = text.removeprefix(_HUB).partition("@")
    revision = revision or named or None
    local = local_files_only or offline_reason() is not None
    try:
        for name in (CONFIG, ADAPTERS):
            path = hub_file(repository, name, revision, token=token, local_files_only=local)
    except UnreachableError as error:
        why = f"offline mode is on ({offline_reason() or 'local_files_only'})" if local else str(error)
        raise NotHereError(
            f"'{repository}' is not in the Hub's cache and {why}. Connect once, or copy a folder of save_pretrained "
            f"here and give its path."
        ) from error
    return path


def cards_folder(place: str | Path, local_files_only: bool = False) -> Path | None:
    """Return the folder that learned parameters and their cards lie in; None if the place is a file.

    Args:
        place: As for :func:`weights_file`.
        local_files_only: As for :func:`weights_file`.

    Raises:
        FileNotFoundError: A repository is not here and there is no network.
        DownloadError: The Hub has no such repository.
    """
    if not str(place).startswith(_HUB):
        return Path(place) if Path(place).is_dir() else None
    folder = weights_file(place, local_files_only=local_files_only).parent
    if not local_files_only and offline_reason() is None:
        repository, _, revision = str(place).removeprefix(_HUB).partition("@")
        hub_files(repository, f"{CARDS}/*.json", revision or None)
    return folder


def write_cards(folder: Path, cards: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write calibration cards, as JSON has them, where a folder of parameters keeps them, and return their paths.

    The name says class, precision and runtime: one of the same replaces what was there.
    """
    paths = []
    for one in cards:
        for name in one["classes"]:
            words = [quote(name, safe=" "), *(one["model"].get(key) for key in ("precision", "runtime"))]
            kept = [word for word in words if word not in (None, "32", "torch")]
            path = folder / CARDS / f"{'.'.join(map(str, kept))}.json"
            single = {**one, "classes": {name: one["classes"][name]}}
            paths.append(write_whole(path, (json.dumps(single, indent=1) + "\n").encode()))
    return paths


def locate(place: str | Path, revision: str | None, token: str | bool | None, local_files_only: bool) -> Path:
    """Return the file that ``from_pretrained`` is asked for: by a path, a published name, or a repository.

    Raises:
        FileNotFoundError: It is not on this machine and cannot be fetched.
        DownloadError: The download failed.
    """
    text = str(place)
    if os.path.exists(place) or text.startswith(_HUB):
        return weights_file(place, revision, token, local_files_only)
    if text.lower() in table() or text.lower().partition("/")[0] in {one.key for one in table().values()}:
        return weights_path(text, offline=True if local_files_only else None)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return weights_file(f"{_HUB}{text}", revision, token, local_files_only)
    raise FileNotFoundError(f"'{text}' is no folder, no file, no name of published adapters and no repository.")


def save_folder(
    model: Any,
    folder: str | Path,
    licence: str | None = None,
    results: str | Path | None = None,
    repository: str | None = None,
    command: str | None = None,
) -> Path:
    """Write adapters, configuration and model card into a folder and return it; no path of this machine is in them.

    Args:
        model: What to write, a trained method.
        folder: Made if missing; files of the same names are replaced.
        licence: Of the adapters, for the card.
        results: Folder of ``zsad benchmark``, for the card.
        repository: Owner and name on the Hub, for the card.
        command: Command line that trains the same adapters again, for the card.

    Raises:
        FileNotFoundError: The folder of results holds none of this method.
    """
    found = [] if results is None else card.read_results(results, type(model).__name__.lower())
    folder = Path(folder)
    (folder / CARDS).mkdir(parents=True, exist_ok=True)
    kept, cards = model.trained_on, model.cards
    local = {name: model.hparams.pop(name) for name in _LOCAL if name in model.hparams}
    model.trained_on, model.cards = public_training(kept), []  # cards lie beside, not inside
    try:
        model.save_weights(folder / ADAPTERS)
        config = describe(model)
    finally:
        model.trained_on, model.cards = kept, cards
        model.hparams.update(local)
    write_cards(folder, cards)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8")
    hashes = {name: digest(folder / name) for name in (ADAPTERS, CONFIG)}
    page = card.render(config, hashes, found, licence, repository, command)
    (folder / "README.md").write_text(page, encoding="utf-8")
    return folder


def describe(model: Any) -> dict[str, Any]:
    """Return what ``config.json`` says of a model."""
    return {
        "zsad": __version__,
        "method": type(model).__name__,
        "options": {name: value for name, value in dict(model.hparams).items() if name not in (*_LOCAL, "backbone")},
        "backbone": {
            "name": model.clip.name,
            "tower_key": model.clip.weights_key(),
            "hub": hub_repository(model.clip.name),
        },
        "protocol": asdict(model.protocol),
        "trained_on": public_training(model.trained_on),
    }


_LOCAL = ("cache_dir", "references", "llm_cache", "text_checkpoint", "image_checkpoint")
"""Options that are about one machine."""


def public_training(trained_on: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a model was trained on without the folders of the machine that it was trained on."""
    return [{name: value for name, value in one.items() if name != "root"} for one in trained_on]


def push(
    model: Any,
    repo_id: str,
    folder: Path,
    private: bool,
    revision: str | None,
    commit_message: str | None,
    token: str | bool | None,
    create_pr: bool,
) -> str:
    """Upload a folder of :func:`save_folder` and return the address of the commit.

    Raises:
        NotHereError: Offline mode is on.
        DownloadError: The Hub refuses it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if (why := offline_reason()) is not None:
        raise NotHereError(f"'{repo_id}' cannot be written: offline mode is on ({why}).")
    api = HfApi(endpoint=endpoint(), token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message or f"{type(model).__name__} adapters by zsad {__version__}",
            create_pr=create_pr,
        )
    except Exception as error:
        if not isinstance(error, HfHubHTTPError) and not is_of_network(error):
            raise
        raise DownloadError(f"Cannot write '{repo_id}': {str(error).strip().splitlines()[0]}") from error
    return str(done.commit_url)
