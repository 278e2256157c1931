"""Files of the Hugging Face Hub, fetched by its own client into its own cache, then compared."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zsad.weights.expected import DownloadError, measure, mismatch
from zsad.weights.fetch import UnreachableError
from zsad.weights.registry import SourceFile


def endpoint() -> str:
    """Return the Hub's address: ``$HF_ENDPOINT``, as it is now, or the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def fetch_from_hub(source: SourceFile) -> Path:
    """Return where the Hub's client put a published file, once it is known to be the expected one.

    Raises:
        MismatchError: It is another one; it was deleted from the Hub's cache.
        UnreachableError: There is no network.
        DownloadError: The Hub has no such file, or refuses it.
    """
    path = hub_file(
        source.repository, source.path, source.commit, repo_type="space" if source.kind == "hub_space" else "model"
    )
    if (differs := source.expected.difference(measure(path))) is not None:
        blob = path.resolve()
        path.unlink()
        blob.unlink(missing_ok=True)
        raise mismatch(source.url, differs)
    return path


def hub_file(repository: str, file: str, revision: str | None, *, repo_type: str = "model", **options: Any) -> Path:
    """Return a file of a repository of the Hub, from its cache or fetched.

    Args:
        repository: Owner and name.
        file: Path in the repository.
        revision: Commit, branch or tag; None is the newest.
        repo_type: ``"model"`` or ``"space"``.
        **options: ``token`` and ``local_files_only`` of ``hf_hub_download``.

    Raises:
        UnreachableError: There is no network.
        DownloadError: The Hub has no such file, or refuses it.
    """
    from huggingface_hub import hf_hub_download

    with _explaining(f"Cannot fetch '{file}' of '{repository}' from"):
        found = hf_hub_download(
            repository, file, revision=revision, repo_type=repo_type, endpoint=endpoint(), **options
        )
    return Path(found)


def hub_files(repository: str, pattern: str, revision: str | None) -> Path:
    """Fetch the files of a repository whose paths match a pattern, and return the folder in the Hub's cache.

    Raises:
        UnreachableError: There is no network.
        DownloadError: The Hub has no such repository, or refuses it.
    """
    from huggingface_hub import snapshot_download

    with _explaining(f"Cannot list '{repository}' at"):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[pattern], endpoint=endpoint()))


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Turn errors of the Hub's client into ours; ``what`` begins the message and is followed by the host."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    host = urlsplit(endpoint()).netloc
    try:
        yield
    except LocalEntryNotFoundError as error:  # also raised for "no network, and not in the cache"
        raise UnreachableError(host, _first_line(error.__cause__ or error), 1) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise DownloadError(f"{what} {host}: {_first_line(error)}") from error
    except Exception as error:
        if not is_of_network(error):
            raise
        raise UnreachableError(host, _first_line(error), 1) from error


def is_of_network(error: BaseException) -> bool:
    """Return whether an error is one of a connection; the Hub's client has changed its HTTP library more than once."""
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, ConnectionError) or bool(libraries & {"httpx", "httpx2", "requests"})


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
