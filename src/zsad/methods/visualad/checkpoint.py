"""Files that VisualAD's released training script wrote."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zsad.methods.author_files import AuthorState, Shapes, check_shapes, whose
from zsad.methods.layers import quarters
from zsad.weights.checkpoints import CheckpointError, local_file, read_tensors

_BACKBONE = "ViT-L/14@336px"
_SOURCES = {"train_on_visa": ("visa",), "train_on_mvtec": ("mvtec_ad",)}
_TENSORS = ("anomaly_token", "normal_token", "ln_post_weight", "ln_post_bias")
_PARTS = ("layer_transforms", "cross_attn")
_SETTINGS = ("features_list", "image_size", "epoch", "backbone", "transform_type", "cross_attn_config")
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class AuthorFile:
    """What a file holds.

    Args:
        path: The file.
        state: Learned parameters by name.
        options: Constructor arguments that follow from it.
        epochs: ``epochs`` -> what the file says of them.
    """

    path: Path
    state: dict[str, Tensor]
    options: dict[str, Any]
    epochs: dict[str, Any]

    def check(self, wanted: Mapping[str, Tensor], backbone: str) -> None:
        """Compare names and shapes with those of a model.

        Args:
            wanted: State of a model that was made with :attr:`options`.
            backbone: What to call the model in the message.

        Raises:
            CheckpointError: If they differ.
        """
        shapes = {name: tuple(value.shape) for name, value in wanted.items()}
        check_shapes(self.path, self.state, shapes, f"VisualAD on '{backbone}'")


def source_of(path: str | Path) -> list[dict[str, Any]]:
    """Return what a file was trained on: known by its hash, else by its folder, else unknown."""
    return whose(path, "VisualAD", _SOURCES.get(Path(path).absolute().parent.name, ()))


def read_author_file(path: str | Path) -> AuthorFile:
    """Return the content of a ``CLIP.pth``.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is something else.
    """
    path = local_file(path)
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(
                f"'{path}' is not the weights but a Git LFS pointer to them: run 'git lfs pull' in the authors' "
                f"repository, or download the file through the repository's web page."
            )
    loaded = read_tensors(path)
    _check_layout(path, loaded)
    layers = [int(number) for number in loaded["features_list"]]
    if not layers or layers != sorted(set(layers)):
        raise CheckpointError(f"'{path}' reads the blocks {layers}; they must rise.")
    state = {name: loaded[name].float() for name in _TENSORS}
    for layer, values in loaded["layer_transforms"].items():
        state.update({f"layer_transforms.{layer}.{name}": value.float() for name, value in values.items()})
    state.update({f"cross_attn.{name}": value.float() for name, value in loaded["cross_attn"].items()})
    first = f"layer_{layers[0]}"
    read = {
        "n_anchors": (f"cross_attn.layer_attentions.{first}.anchor_queries", 0),
        "max_patches": (f"cross_attn.layer_attentions.{first}.pos_encoding", 1),
        "hidden": (f"layer_transforms.{first}.mlp.0.weight", 0),
    }
    options: dict[str, Any] = {"layers": layers, "image_size": int(loaded["image_size"])}
    for option, (name, axis) in read.items():
        if name not in state or state[name].ndim <= axis:
            raise CheckpointError(f"'{path}' names the blocks {layers} but lacks '{name}'.")
        options[option] = state[name].shape[axis]
    return AuthorFile(path, state, options, {"epochs": int(loaded["epoch"])})


def _check_layout(path: Path, loaded: Any) -> None:
    wanted = {*_TENSORS, *_PARTS, *_SETTINGS}
    if not isinstance(loaded, dict) or set(loaded) != wanted:
        found = set(map(str, loaded)) if isinstance(loaded, dict) else {type(loaded).__name__}
        raise CheckpointError(
            f"'{path}' is no checkpoint of VisualAD's released code: missing {sorted(wanted - found)}, unknown "
            f"{sorted(found - wanted)}."
        )
    for key, known in (("backbone", _BACKBONE), ("transform_type", "mlp")):
        if loaded[key] != known:
            raise CheckpointError(f"'{path}' was written for {key}={loaded[key]!r}; only {known!r} is supported.")
    flat = {name: loaded[name] for name in _TENSORS}
    for part in _PARTS:
        content = loaded[part]
        nested = content.values() if part == "layer_transforms" and isinstance(content, dict) else [content]
        for values in nested:
            flat.update(values if isinstance(values, dict) else {part: values})
    if wrong := sorted(name for name, value in flat.items() if not isinstance(value, Tensor)):
        raise CheckpointError(f"'{path}' is no checkpoint of VisualAD's released code: {wrong} hold no tensors.")


def read_visualad(path: str | Path) -> AuthorState:
    """Return what is learned in a ``CLIP.pth``, for the table of published files."""
    stored = read_author_file(path)
    return AuthorState(stored.state, stored.options, {})


def visualad_shapes(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the published layout, for open_clip's configuration of a backbone."""
    width, depth = config["vision_cfg"]["width"], config["vision_cfg"]["layers"]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
        ("anomaly_token", "normal_token", "ln_post_weight", "ln_post_bias"), (width,)
    )
    anchors = options.get("n_anchors", 4)
    for number in options.get("layers") or quarters(depth):
        one = f"cross_attn.layer_attentions.layer_{number}"
        shapes |= {f"{one}.anchor_queries": (anchors, width), f"{one}.pos_encoding": (1, 1536, width)}
        shapes |= {f"{one}.{name}_proj.weight": (width, width) for name in ("q", "k", "v", "out")}
        shapes |= {f"{one}.{name}_norm.{leaf}": (width,) for name in ("q", "k") for leaf in ("weight", "bias")}
        shapes |= {f"{one}.gate.0.weight": (anchors, width), f"{one}.gate.0.bias": (anchors,)}
        shapes |= {f"{one}.out_proj.bias": (width,), f"{one}.res_scale": (1,)}
        for place in (0, 3):
            other = f"layer_transforms.layer_{number}.mlp.{place}"
            shapes |= {f"{other}.weight": (width, width), f"{other}.bias": (width,)}
    return shapes
