"""Ship it: a model as a folder with its proof, the runtime without torch, the server and its page."""

from zsad.deploy.export import export
from zsad.deploy.graph import ExportError
from zsad.deploy.runtime import Runtime

__all__ = ["ExportError", "Runtime", "export"]
