"""Files that MVFA's released training scripts wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from zsad.methods.author_files import check_shapes, only_tensors, whose
from zsad.weights.checkpoints import CheckpointError, read_tensors

Setting = Literal["zero-shot", "few-shot"]

_KEYS = {
    "Brain": "bmad_brain",
    "Liver": "bmad_liver",
    "Retina_RESC": "bmad_retina",
    "Retina_OCT2017": "Retina_OCT2017",  # no data module: the authors' word
    "Chest": "Chest",
    "Histopathology": "Histopathology",
}
_PARTS = ("seg_adapters", "det_adapters")


class AuthorFile(NamedTuple):
    """What a file holds: learned parameters under the names of :class:`~zsad.methods.MVFA`."""

    path: Path
    parameters: dict[str, Tensor]

    def check(self, model: Any) -> None:
        """Compare names and shapes with those of a model.

        Raises:
            CheckpointError: If they differ.
        """
        wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        what = f"adapters after {len(model.layers)} blocks of '{model.clip.name}'"
        check_shapes(self.path, self.parameters, wanted, what)


def read_author_file(path: str | Path) -> AuthorFile:
    """Return the adapters of a file of the authors.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is something else.
    """
    loaded = read_tensors(path)
    if not isinstance(loaded, Mapping) or set(loaded) != set(_PARTS):
        held = sorted(map(str, loaded)) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise CheckpointError(
            f"'{path}' is no checkpoint of MVFA's released code: it needs {list(_PARTS)}, it holds {held}."
        )
    parameters = {}
    for part in _PARTS:
        tensors = only_tensors(path, loaded[part], f"MVFA's {part}")
        parameters.update({f"{part}.{name}": value.float() for name, value in tensors.items()})
    return AuthorFile(Path(path), parameters)


def sources_of(path: str | Path, setting: Setting | None = None) -> list[dict[str, Any]]:
    """Return what a file of the authors was trained on: files are named after the target, not after the source.

    Args:
        path: Its name tells the target.
        setting: ``"zero-shot"``: the other five data sets; ``"few-shot"``: the target. None: the nearest folder above
            that names one of the two; without one nothing is known.
    """
    path = Path(path)
    if setting not in (None, "zero-shot", "few-shot"):
        raise ValueError(f"setting must be 'zero-shot' or 'few-shot', got '{setting}'.")
    if setting is None:
        folders = [part.lower().replace("_", "-") for part in reversed(path.absolute().parent.parts)]
        named = [one for part in folders for one in ("zero-shot", "few-shot") if one in part]
        setting = named[0] if named else None  # type: ignore[assignment]
    if path.stem not in _KEYS or setting is None:
        return whose(path, "MVFA")
    if setting == "few-shot":
        return [{"name": _KEYS[path.stem]}]
    return [{"name": name} for key, name in _KEYS.items() if key != path.stem]
