"""What few-shot methods keep of normal images, per class."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MissingReferencesError(ValueError):
    """A class has no normal reference images although others have, or too few."""


class Memory(nn.Module):
    """Banks of unit-length float32 features: class -> kind -> (entries, dim); never part of a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._banks: dict[str, dict[str, Tensor]] = {}
        self._pictures: dict[str, dict[bytes, set[bytes]]] = {}  # class -> digest of a few pixels -> digests of all

    def _apply(self, fn: Any, recurse: bool = True) -> "Memory":
        for bank in self._banks.values():
            for kind, features in bank.items():
                bank[kind] = fn(features).float()  # follow the device, not a half precision
        return super()._apply(fn, recurse)

    @property
    def classes(self) -> list[str]:
        """Classes that have references, sorted."""
        return sorted(self._banks)

    def add(self, class_name: str, features: Mapping[str, Tensor]) -> None:
        """Append the features of references to a class's banks.

        Args:
            class_name: The class.
            features: Kind (layer or window scale, say) -> (references, positions, dim), any length; all positions of
                all references become entries.
        """
        bank = self._banks.setdefault(class_name, {})
        for kind, values in features.items():
            entries = F.normalize(values.detach().float().flatten(0, 1), dim=-1)
            bank[kind] = torch.cat([bank[kind], entries]) if kind in bank else entries

    def banks(self, class_name: str) -> dict[str, Tensor]:
        """Return all entries of a class, kind -> (entries, dim); empty without references."""
        return dict(self._banks.get(class_name, {}))

    def drop(self, class_names: Iterable[str]) -> None:
        """Forget classes; unknown names do not matter."""
        for name in class_names:
            self._banks.pop(name, None)
            self._pictures.pop(name, None)

    def note(self, class_name: str, image: Tensor) -> None:
        """Remember which picture a reference is, by its content.

        Args:
            class_name: The class.
            image: (3, height, width), as the method sees it.
        """
        few, whole = _digest(image[:, ::16, ::16]), _digest(image)
        self._pictures.setdefault(class_name, {}).setdefault(few, set()).add(whole)

    def class_of(self, image: Tensor) -> str | None:
        """Return the class that has this very picture, (3, height, width), as a reference; None if none has."""
        if not self._pictures:
            return None
        few, whole = _digest(image[:, ::16, ::16]), None  # a few pixels tell nearly all pictures apart, at little cost
        for name, pictures in self._pictures.items():
            if few in pictures:
                whole = whole or _digest(image)
                if whole in pictures[few]:
                    return name
        return None

    def pictures(self, class_name: str) -> list[str]:
        """Return the digests of a class's pictures as the method sees them, in hexadecimal digits, sorted."""
        wholes = self._pictures.get(class_name, {}).values()
        return sorted(one.hex() for several in wholes for one in several)

    def digest(self, class_name: str) -> str:
        """Return 16 hexadecimal digits that say which pictures are the references of a class, in whatever order."""
        every = sorted(str(whole) for wholes in self._pictures.get(class_name, {}).values() for whole in wholes)
        return hashlib.blake2b("\n".join(every).encode(), digest_size=8).hexdigest()

    def bank(self, class_name: str, kind: str) -> Tensor:
        """Return the entries of a class, (entries, dim), of unit length.

        Raises:
            MissingReferencesError: If the class has no references.
        """
        if class_name not in self._banks:
            raise MissingReferencesError(
                f"Class '{class_name}' has no reference images, but {self.classes or 'no other class'} has: a few-shot "
                f"and a zero-shot score do not compare. Call fit_references('{class_name}', images) or give a folder "
                f"of normal images as 'references'."
            )
        return self._banks[class_name][kind]

    def distance(self, kind: str, features: Tensor, class_names: Sequence[str]) -> Tensor:
        """Return 1 minus the cosine to the nearest entry of each image's class, (batch, n) float32 in [0, 2].

        Args:
            kind: Which bank.
            features: (batch, n, dim), any length.
            class_names: Class of each image.

        Raises:
            MissingReferencesError: If a class has no references.
        """
        with torch.autocast(features.device.type, enabled=False):
            unit = F.normalize(features.float(), dim=-1)
            # one image at a time: the similarities of a whole batch with a large bank would not fit
            nearest = [(one @ self.bank(name, kind).T).amax(dim=1) for one, name in zip(unit, class_names, strict=True)]
        return (1 - torch.stack(nearest)).clamp_min(0)  # equal vectors come out up to about 2e-7 below 0


def _digest(pixels: Tensor) -> bytes:
    return hashlib.blake2b(pixels.detach().float().cpu().contiguous().numpy().tobytes(), digest_size=16).digest()
