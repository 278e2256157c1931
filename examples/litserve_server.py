"""An exported folder behind LitServe, for machines with several GPUs: ``python examples/litserve_server.py export/``.

Needs ``pip install litserve python-multipart "zsad[onnx]"``. Bind it to an address that others reach only behind a
proxy that asks who they are: this example has no token, and no limits of its own.
"""

import sys
from typing import Any

import litserve as ls
from fastapi import Request

from zsad.deploy import Runtime


class Score(ls.LitAPI):
    """One image in, one row out."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def setup(self, device: Any) -> None:
        """Load the model, once in each worker."""
        self.model = Runtime(self.folder)

    def decode_request(self, request: Request) -> bytes:
        """Return the image of a form, which LitServe hands over where a request is declared."""
        return bytes(request["image"].file.read())

    def predict(self, x: bytes) -> Any:
        """Score it as the first exported class."""
        return self.model.predict(x, self.model.classes[0], size="model")

    def encode_response(self, output: Any) -> dict[str, float]:
        """Return what is told."""
        return {"score": output.pred_score}


if __name__ == "__main__":
    ls.LitServer(Score(sys.argv[1])).run(host="127.0.0.1", port=8000, generate_client_file=False)
