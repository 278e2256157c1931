"""An answer other than the one that was asked for: one sentence, one code, no path and no trace."""


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """What a client is told instead of a result.

    Args:
        status: Of HTTP.
        code: One word for programs, such as ``"too_large"``.
        message: A sentence for people; it names no file of this machine.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}

    @property
    def content(self) -> dict[str, dict[str, str]]:
        """The body of the answer, the same for every error."""
        return {"error": {"code": self.code, "message": self.message}}
