"""Tools for data sets: list them, check a copy, fetch, prepare and export one.

Each command is one function that prints for people, or JSON with ``as_json``, and returns an exit status: 0 all is
well, 1 something is wrong with the data, 2 the request itself cannot be met.
"""

from zsad.datamodules.tools.check import CheckReport, check, data_check
from zsad.datamodules.tools.download import UnsafeArchiveError, data_download, extract
from zsad.datamodules.tools.export import data_export, export
from zsad.datamodules.tools.listing import data_list, data_show
from zsad.datamodules.tools.prepare import data_prepare, prepare

__all__ = [
    "CheckReport",
    "UnsafeArchiveError",
    "check",
    "data_check",
    "data_download",
    "data_export",
    "data_list",
    "data_prepare",
    "data_show",
    "export",
    "extract",
    "prepare",
]
