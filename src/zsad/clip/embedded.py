"""Backbones that ship with the package."""

from collections.abc import Mapping

EMBEDDED: Mapping[str, str] = {"zsad-mini": "zsad_mini.safetensors", "zsad-mini-2": "zsad_mini_2.safetensors"}
"""Name -> file in ``zsad/weights``. A new edition gets a new name, and names keep their meaning."""

MINI = "zsad-mini-2"
"""The embedded backbone that is taken where none is named."""
