"""What a result was computed with: versions, commit, memory."""

import platform
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path

import lightning
import open_clip
import torch
import torchmetrics

from zsad import __version__


def versions() -> dict[str, str]:
    """Return the versions that results may depend on."""
    return {
        "zsad": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "open_clip": open_clip.__version__,
        "torchmetrics": torchmetrics.__version__,
        "pillow": version("pillow"),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
    }


def git_commit() -> str | None:
    """Return the commit of the source tree, with ``+`` if it was changed; None outside a repository."""
    folder = Path(__file__).parent
    try:
        run = lambda *args: subprocess.run(  # noqa: E731 (three words, used twice)
            ["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("+" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_mb(device: torch.device) -> float:
    """Return the greatest memory in use so far in MB: of the GPU since the cell began, or of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
