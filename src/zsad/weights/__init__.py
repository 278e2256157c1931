"""Trained parts of methods that people published: a table, a download that cannot go wrong in silence, a cache."""

from zsad.weights.expected import DownloadError, Expected, MismatchError
from zsad.weights.fetch import NoSpaceError, UnreachableError, fetch
from zsad.weights.registry import NotPublishedError, UnknownAdaptersError, WeightsEntry, list_weights
from zsad.weights.sources import NotHereError
from zsad.weights.store import ChangedWeightsWarning

__all__ = [
    "ChangedWeightsWarning",
    "DownloadError",
    "Expected",
    "MismatchError",
    "NoSpaceError",
    "NotHereError",
    "NotPublishedError",
    "UnknownAdaptersError",
    "UnreachableError",
    "WeightsEntry",
    "fetch",
    "list_weights",
]
