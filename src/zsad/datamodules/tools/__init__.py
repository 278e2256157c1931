"""Tools for data sets: check a copy, fetch, prepare and export one; ``zsad data`` says what they find."""

from zsad.datamodules.tools.check import CheckReport, check
from zsad.datamodules.tools.download import UnsafeArchiveError, download, extract
from zsad.datamodules.tools.export import export
from zsad.datamodules.tools.prepare import prepare

__all__ = ["CheckReport", "UnsafeArchiveError", "check", "download", "export", "extract", "prepare"]
