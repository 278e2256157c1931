"""Files that MVFA's released training scripts wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Self

from zsad.clip import Clip
from zsad.methods.author_files import AuthorState, only_tensors, whose
from zsad.methods.authors import FromAuthors
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


class FromMvfaAuthors(FromAuthors):
    """The part of MVFA that reads its authors' files."""

    @classmethod
    def from_author_checkpoint(
        cls, path: str | Path, backbone: str | Clip | None = None, setting: Setting | None = None, **options: Any
    ) -> Self:
        """Return the detector with the adapters of the authors' file, ``Liver.pth`` for example.

        The files are named after the *target*. A zero-shot file was trained on the other five data sets, a few-shot
        file on the target itself.

        Args:
            path: The file; it is read with ``weights_only=True``.
            backbone: The backbone that it was trained for; None for the published one.
            setting: ``"zero-shot"`` or ``"few-shot"``; by default a folder of that name in the path says it.
            **options: Further arguments of the constructor.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If its layout is another one or the shapes do not fit.
        """
        model = super().from_author_checkpoint(path, backbone, **options)
        model.trained_on = sources_of(path, setting)
        return model

    @classmethod
    def read_author_file(cls, path: str | Path) -> AuthorState:
        """Return the adapters of both branches."""
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
        return AuthorState(parameters, {}, {})


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
