"""Answers of live back-ends on disk."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from zsad import __version__
from zsad.llm.base import LLM, LLMWarning, OfflineError

CacheMode = Literal["cache_first", "offline", "refresh"]


def default_cache_dir() -> Path:
    """Return where answers are kept: ``zsad/llm`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zsad" / "llm"


class AnswerCache:
    """Answers of live back-ends on disk, one JSON file per request; from its second run a benchmark needs no network.

    Args:
        directory: Folder; None for :func:`default_cache_dir`.
        mode: ``"cache_first"`` asks the model only for what is missing, ``"offline"`` never, ``"refresh"`` always.

    Raises:
        ValueError: If the mode is unknown.
    """

    def __init__(self, directory: str | Path | None = None, mode: CacheMode = "cache_first") -> None:
        if mode not in get_args(CacheMode):
            raise ValueError(f"The cache mode must be one of {list(get_args(CacheMode))}, got '{mode}'.")
        self.directory = default_cache_dir() if directory is None else Path(directory).expanduser()
        self.mode: CacheMode = mode

    @staticmethod
    def request(llm: LLM, query: str, n: int, seed: int) -> dict[str, Any]:
        """Return what identifies a request; the server's address does not."""
        temperature = getattr(llm, "temperature", None)
        return {
            "model": llm.name,
            "query": query,
            "temperature": None if temperature is None else float(temperature),
            "max_tokens": getattr(llm, "max_tokens", None),
            "n": n,
            "seed": seed,
        }

    def path(self, request: Mapping[str, Any]) -> Path:
        """Return the file of a request, named by the SHA-256 of its canonical JSON."""
        canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return self.directory / f"{hashlib.sha256(canonical.encode(errors='backslashreplace')).hexdigest()}.json"

    def read(self, request: Mapping[str, Any]) -> list[str] | None:
        """Return the stored raw texts; None if the model is to be asked.

        Raises:
            OfflineError: In mode ``"offline"``, if there are none; the message has the query.
        """
        if self.mode == "refresh":
            return None
        path, problem = self.path(request), "is not in the cache"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            texts = stored["texts"]
            if {key: stored[key] for key in request} == dict(request) and _is_texts(texts):
                return list(texts)
            problem = "is in the cache, but the file belongs to another request"
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            problem = "is in the cache, but its file is damaged"
        if self.mode == "offline":
            raise OfflineError(
                f"The answer of '{request['model']}' to '{request['query']}' (seed {request['seed']}) {problem} "
                f"({path}), and the cache mode is 'offline'. Ask once with 'cache_first' where the model is reached."
            )
        return None

    def write(self, request: Mapping[str, Any], texts: Sequence[str]) -> None:
        """Store raw texts: a whole file or none, whatever happens meanwhile. A full or read-only disk only warns."""
        time_utc = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = json.dumps(
            {**request, "texts": list(texts), "time": time_utc, "zsad": __version__}, ensure_ascii=False, indent=1
        )
        temporary = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("wb", dir=self.directory, suffix=".part", delete=False) as file:
                temporary = Path(file.name)
                file.write(content.encode("utf-8", errors="replace"))
            temporary.replace(self.path(request))
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            warnings.warn(f"The answer could not be cached in '{self.directory}': {error}.", LLMWarning, stacklevel=2)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
