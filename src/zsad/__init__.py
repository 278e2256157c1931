"""Zero-shot visual anomaly detection with CLIP.

Importing this package is cheap: nothing here imports torch until a name that needs it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsad.inference import Predictor, Result, load_model

__version__ = "0.1.0.dev0"
__all__ = ["Predictor", "Result", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    if name in {"Predictor", "Result", "load_model"}:
        from zsad import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'zsad' has no attribute '{name}'")
