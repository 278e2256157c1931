"""Procedural pictures of flawless and damaged things with exact masks: the benchmark that needs no download.

It shows that the machinery works. It says nothing about real pictures.
"""

from zsad.synthetic.defects import DEFECTS, HELD_OUT_DEFECTS, SEEN_DEFECTS
from zsad.synthetic.generate import (
    CLASSES,
    GENERATOR_VERSION,
    HELD_OUT_CLASSES,
    SEEN_CLASSES,
    SyntheticSample,
    generate,
)
from zsad.synthetic.objects import OBJECTS
from zsad.synthetic.splits import SampleSpec, Split, split_samples, split_specs
from zsad.synthetic.textures import TEXTURES

__all__ = [
    "CLASSES",
    "DEFECTS",
    "GENERATOR_VERSION",
    "HELD_OUT_CLASSES",
    "HELD_OUT_DEFECTS",
    "OBJECTS",
    "SEEN_CLASSES",
    "SEEN_DEFECTS",
    "TEXTURES",
    "SampleSpec",
    "Split",
    "SyntheticSample",
    "generate",
    "split_samples",
    "split_specs",
]
