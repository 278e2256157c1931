"""The methods that learn, trained on generated pictures for the demo's table."""

from pathlib import Path

from rich.console import Console

from zsad.cli.demo.scoring import training_free
from zsad.clip import Clip
from zsad.methods import METHODS, Method


def train(
    clip: Clip, folder: Path, seed: int, console: Console, images: int = 400, epochs: int | None = 5
) -> dict[str, Method]:
    """Return the methods that learn, trained on generated pictures of classes and defects that the backbone has seen.

    Args:
        clip: The backbone.
        folder: Gets the weights files, and the cached image features.
        seed: Of the pictures and of the training.
        console: Gets a line per method.
        images: Training pictures.
        epochs: Passes over them; None takes each method's published number.
    """
    from zsad.benchmark.grid import DataSpec, MethodSpec
    from zsad.benchmark.train import trained

    data = DataSpec("synthetic", "Synthetic", {"train_images": images, "seed": seed})
    options = {"accelerator": clip.logit_scale.device.type, "devices": 1, "enable_progress_bar": True}
    free, methods = training_free(), {}
    for name, kind in METHODS.items():
        if name not in free:
            spec = MethodSpec(name, name, {"cache_dir": str(folder / "cache")})
            model, weights = trained(spec, data, seed, clip, folder, epochs, options)
            methods[f"{kind.__name__}, trained"] = model
            console.print(f"{kind.__name__}: trained on {images} pictures; weights in {weights}", soft_wrap=True)
    console.print("No gain is expected here: the backbone was trained against prompts written by hand.")
    return methods
