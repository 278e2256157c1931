"""Zero-shot visual anomaly detection with CLIP.

Importing this package is cheap: nothing here imports torch until a name that needs it is used.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsad.images.tiling import Tiles
    from zsad.inference import Predictor, Result, load_model
    from zsad.methods.author_files import weights_path
    from zsad.weights import WeightsEntry, list_weights

__version__ = "0.1.0.dev0"
__all__ = ["Predictor", "Result", "Tiles", "WeightsEntry", "__version__", "list_weights", "load_model", "weights_path"]


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose names are imported when they are used.

    Args:
        package: Its ``__name__``.
        places: Name -> module that defines it.
    """

    def look(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(importlib.import_module(places[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return look


__getattr__ = lazily(
    __name__,
    {
        "Predictor": "zsad.inference.predictor",
        "Result": "zsad.inference.result",
        "Tiles": "zsad.images.tiling",
        "WeightsEntry": "zsad.weights",
        "list_weights": "zsad.weights",
        "load_model": "zsad.inference.loading",
        "weights_path": "zsad.methods.author_files",
    },
)
