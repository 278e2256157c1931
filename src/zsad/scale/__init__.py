"""Millions of images on many machines: Ray distributes, methods and rows are those of one machine."""

from zsad.scale.cluster import Cluster
from zsad.scale.collect import collect
from zsad.scale.job import score

__all__ = ["Cluster", "collect", "score"]
