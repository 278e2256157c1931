"""Normal or not: thresholds with a promise, the cards that keep them, drift, and regions. No torch in here."""

from zsad.decision.card import Card
from zsad.decision.card_json import CardError
from zsad.decision.conformal import Calibration, TooFewImagesError
from zsad.decision.regions import Region, regions

__all__ = ["Calibration", "Card", "CardError", "Region", "TooFewImagesError", "regions"]
