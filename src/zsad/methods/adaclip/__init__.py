"""AdaCLIP: prompt tokens in both towers, learned ones and ones that follow from the image."""

from zsad.methods.adaclip.method import AdaCLIP

__all__ = ["AdaCLIP"]
