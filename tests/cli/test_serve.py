"""The command ``zsad serve``: a mistake is one line, before anything listens."""

from __future__ import annotations

import pytest

from zsad.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "so a token is needed: --token-file FILE or ZSAD_TOKEN"),
        (["--queue", "0"], "queue must be at least 1"),
        (["--ssl-keyfile", "key.pem"], "--ssl-certfile and --ssl-keyfile go together"),
        (["EXPORT", "--method", "clip"], "--method beside 'EXPORT'"),
        (["--method", "musc", "--backbone", "zsad-mini"], "MuSc compares images with each other"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZSAD_TOKEN", raising=False)
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
