"""The body of a request, read in pieces and never beyond a limit; nothing is written to a disk."""

from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from zsad.deploy.refusals import Refusal

MOST_PARTS = 40
"""Fields of a form, images among them."""


@dataclass
class Part:
    """One field of a form.

    Args:
        name: Of the field.
        filename: As the client gives it; never used as a path.
        data: Its content.
    """

    name: str = ""
    filename: str = ""
    data: bytearray | bytes = b""


async def read_parts(request: Request, limit: int) -> list[Part]:
    """Return the fields of a form, or the one of a raw body, which is named ``image``.

    Args:
        request: Whose body was not read yet.
        limit: Most bytes of the whole body, whatever its header says.

    Raises:
        Refusal: 413 for more bytes, 400 for a form that is none.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    _refuse_announced(request, limit)
    if kind != b"multipart/form-data":
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            _refuse_longer(len(data), limit)
        return [Part("image", "", data)]
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise Refusal(400, "bad_form", "The form has no boundary in its Content-Type.")
    form = _Form()
    parser = MultipartParser(boundary, form.callbacks())
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            _refuse_longer(size, limit)
            parser.write(chunk)
    except FormParserError as error:
        raise Refusal(400, "bad_form", "The form is not as multipart/form-data has it.", _CLOSE) from error
    if not form.ended:
        raise Refusal(400, "bad_form", "The form stops before its last boundary.")
    return form.parts


_CLOSE = {"Connection": "close"}  # what is still under way is not read


def _refuse_announced(request: Request, limit: int) -> None:
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit():
        _refuse_longer(int(length[:18]), limit)


def _refuse_longer(size: int, limit: int) -> None:
    if size > limit:
        raise Refusal(413, "too_large", f"The body has more than {limit} bytes, which is the most here.", _CLOSE)


class _Form:
    """Collects the fields as the parser finds them."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._key, self._value = bytearray(), bytearray()

    def callbacks(self) -> Any:
        names = ("part_begin", "part_data", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        if len(self.parts) >= MOST_PARTS:
            raise Refusal(413, "too_many_parts", f"A form has at most {MOST_PARTS} fields here.", _CLOSE)
        self.parts.append(Part(data=bytearray()))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += data[start:end]

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if bytes(self._key).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self.parts[-1].name = options.get(b"name", b"").decode("utf-8", "replace")
            self.parts[-1].filename = options.get(b"filename", b"").decode("utf-8", "replace")
        self._key.clear()
        self._value.clear()

    def _end(self) -> None:
        self.ended = True
