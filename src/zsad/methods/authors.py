"""A trained method that reads the files of its paper's authors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from zsad.clip import Clip
from zsad.methods.author_files import AuthorState, check_shapes, whose
from zsad.methods.trained import TrainedMethod


class FromAuthors(TrainedMethod):
    """A method whose authors' training script writes one file; a child says how its layout is read."""

    author_data: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Name of a file without ending -> data sets it was trained on, where the table of published files is silent."""

    @classmethod
    def from_author_checkpoint(cls, path: str | Path, backbone: str | Clip | None = None, **options: Any) -> Self:
        """Return the detector with what a file of the authors' training script holds.

        Sizes follow from the file, as far as it says them.

        Args:
            path: The file; it is read with ``weights_only=True``.
            backbone: The backbone that it was trained for; None for the published one.
            **options: Further arguments of the constructor; they win over the file's.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If its layout is another one, the shapes do not fit, or it is the published file of another
                method.
        """
        trained_on = whose(path, cls.__name__, cls.author_data.get(Path(path).stem, ()))
        stored = cls.read_author_file(path)
        model = cls(cls.published_backbone if backbone is None else backbone, **{**stored.options, **options})
        model.take_author_state(path, stored)
        model.trained_on = trained_on
        return model

    @classmethod
    def read_author_file(cls, path: str | Path) -> AuthorState:
        """Return what is learned in a file of the authors.

        Raises:
            CheckpointError: Its layout is another one.
        """
        raise NotImplementedError

    def take_author_state(self, path: str | Path, stored: AuthorState) -> None:
        """Load what was read.

        Args:
            path: Of the file, for messages.
            stored: Its content.

        Raises:
            CheckpointError: The shapes do not fit.
        """
        wanted = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        check_shapes(path, stored.parameters, wanted, f"{type(self).__name__} on '{self.clip.name}'")
        self.load_state_dict(stored.parameters)
