"""Zero-shot visual anomaly detection with CLIP.

Importing this package is cheap: nothing here imports torch until a name that needs it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsad.inference import Predictor, Result, load_model
    from zsad.methods.author_files import weights_path
    from zsad.weights import WeightsEntry, list_weights

__version__ = "0.1.0.dev0"
__all__ = ["Predictor", "Result", "WeightsEntry", "__version__", "list_weights", "load_model", "weights_path"]


def __getattr__(name: str) -> Any:
    if name in {"Predictor", "Result", "load_model"}:
        from zsad import inference

        return getattr(inference, name)
    if name in {"WeightsEntry", "list_weights"}:
        from zsad import weights

        return getattr(weights, name)
    if name == "weights_path":
        from zsad.methods import author_files

        return author_files.weights_path
    raise AttributeError(f"module 'zsad' has no attribute '{name}'")
