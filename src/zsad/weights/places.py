"""Where zsad keeps what it fetched, and whether it may fetch at all."""

import os
from pathlib import Path

_OFFLINE = ("HF_HUB_OFFLINE", "ZSAD_OFFLINE")


def home() -> Path:
    """Return the folder of everything that zsad keeps: ``$ZSAD_HOME``, or ``zsad`` in the user's cache folder."""
    if given := os.environ.get("ZSAD_HOME"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zsad"


def weights_folder() -> Path:
    """Return the folder of adapters, ``weights`` below :func:`home`."""
    return home() / "weights"


def offline_reason(offline: bool | None = None) -> str | None:
    """Return why nothing may be fetched, or None if it may.

    Args:
        offline: What the caller asked for; None leaves it to ``HF_HUB_OFFLINE`` and ``ZSAD_OFFLINE``.
    """
    if offline is not None:
        return "offline=True" if offline else None
    return next((name for name in _OFFLINE if os.environ.get(name, "").lower() not in ("", "0", "false", "no")), None)


def mirror(given: str | None = None) -> str | None:
    """Return the mirror, an address or a folder: the one given, else ``$ZSAD_WEIGHTS_MIRROR``; None without."""
    return given or os.environ.get("ZSAD_WEIGHTS_MIRROR") or None


def as_folder(base: str) -> Path | None:
    """Return a mirror as a folder, None if it is an address."""
    return None if base.startswith(("http://", "https://")) else Path(base.removeprefix("file://")).expanduser()


def shown(path: Path) -> str:
    """Return a path as people write it, with ``~`` for their own folder."""
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)
