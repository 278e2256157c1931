"""What a calibration card says of the predictions of a Trainer: the keys that rows have."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from zsad.decision import Card, CardError
from zsad.decision.regions import calibrated_regions
from zsad.images import ImageError, image_size, load_rgb
from zsad.inference.base import CALIBRATED
from zsad.inference.enlarging import enlarged
from zsad.inference.identity import check_card
from zsad.inference.inputs import pixel_digest
from zsad.methods import Method

_PART = "#xywh="


class Judge:
    """Labels, p-values and regions for predictions.

    Args:
        card: Of the model that predicts.
    """

    def __init__(self, card: Card) -> None:
        self.card = card

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse another model, another precision, and classes that the card does not know.

        Raises:
            CardError: The message names both values, or the class.
        """
        assert isinstance(module, Method)
        if str(trainer.precision) not in ("32-true", "32"):
            raise CardError(
                f"The card was made with precision '{self.card.model.get('precision')}', the Trainer has "
                f"'{trainer.precision}': take --trainer.precision 32, or 'zsad score', which rounds as the card says."
            )
        check_card(self.card, module, module.clip.precision)
        for name in getattr(getattr(trainer, "datamodule", None), "class_names", ()):
            self.card.entry(name)

    def of(self, path: str, class_name: str, score: float, anomaly_map: Tensor) -> dict[str, Any]:
        """Return the keys of a row that the card fills in.

        Args:
            path: Of the image, perhaps with the part that is meant (``#xywh=``).
            class_name: Of the image.
            score: Of the image.
            anomaly_map: (height, width) at the model's size.
        """
        entry = self.card.entry(class_name)
        found: dict[str, Any] = {"n_regions": None}
        if entry.regions is not None:
            size = _size(path)
            values = enlarged(anomaly_map.float().cpu().numpy(), size)
            regions, number = calibrated_regions(values, entry.regions)
            found = {"n_regions": number, "regions": [one.to_json() for one in regions]}
            found |= {"width": size[1], "height": size[0]}
        decision = entry.decide(score, found["n_regions"] or 0)
        return found | decision._asdict() | {"warning": self._warning(path)}

    def _warning(self, path: str) -> str | None:
        if _PART in path or not self.card.image_digests:
            return None
        try:
            known = pixel_digest(load_rgb(path)) in self.card.image_digests
        except (ImageError, OSError):  # made by the data module, not read from a file
            return None
        return CALIBRATED if known else None


def _size(path: str) -> tuple[int, int]:
    """(height, width) of an upright picture, or of its part."""
    if _PART in path:
        _, _, width, height = (int(one) for one in path.rpartition(_PART)[2].split(","))
        return height, width
    height, width = image_size(path)
    return height, width
