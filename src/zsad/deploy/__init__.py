"""Ship it: a model as a folder with its proof, the runtime without torch, the server and its page."""

from typing import TYPE_CHECKING

from zsad import lazily

if TYPE_CHECKING:
    from zsad.deploy.exporting import export
    from zsad.deploy.graph import ExportError
    from zsad.deploy.runtime import Runtime

__all__ = ["ExportError", "Runtime", "export"]

__getattr__ = lazily(
    __name__,
    {
        "ExportError": "zsad.deploy.graph",
        "Runtime": "zsad.deploy.runtime",
        "export": "zsad.deploy.exporting",
    },
)
