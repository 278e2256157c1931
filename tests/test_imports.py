"""Imports go one way, and importing the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zsad

SOURCE = Path(zsad.__file__).parent

# lower layers first; a module may import from its own layer or a lower one
LAYERS = [
    {"types", "__init__"},
    {
        "clip",
        "functional",
        "training",
        "weights",
        "report",
        "prompts",
        "maps",
        "windows",
        "views",
        "memory",
        "losses",
        "images",
        "synthetic",
        "augment",
        "llm",
        "token_cache",
        "adaptation",
    },
    {"methods", "datamodules", "metrics"},
    {
        "predict",
        "inference",
        "evaluate",
        "evaluate_cli",
        "llm_cli",
        "overlay",
        "page",
        "score",
        "demo",
        "doctor",
        "export",
        "report",
        "benchmark",
        "data",
        "rows",
        "trainer_cli",
        "cli",
    },
]
WITHIN_METHODS_LAYER = {("methods", "metrics")}


def top(path: Path) -> str:
    """Name of the part that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Names of the parts of zsad that a file imports anywhere, but not for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    parts = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "zsad":
            names = [node.module] if node.module != "zsad" else [f"zsad.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "zsad"]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if "." in name}
    return {part for part in parts if (SOURCE / part).exists() or (SOURCE / f"{part}.py").exists()}


def rank(part: str) -> int:
    """Layer of a part."""
    for number, layer in enumerate(LAYERS):
        if part in layer:
            return number
    raise AssertionError(f"'{part}' has no layer: add it to LAYERS, as low as it can stand.")


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_import_points_upwards(path: Path) -> None:
    own = top(path)
    if own == "__init__":
        return  # offers names of upper layers lazily
    for part in imported_parts(path) - {own}:
        assert rank(part) <= rank(own), f"{path.name} of '{own}' imports '{part}' from an upper layer"
        if rank(part) == rank(own) == 2:
            assert (own, part) in WITHIN_METHODS_LAYER, f"{path.name} of '{own}' must not import '{part}'"


def test_clip_knows_no_method() -> None:
    assert not any("methods" in imported_parts(path) for path in (SOURCE / "clip").rglob("*.py"))


@pytest.mark.parametrize("statement", ["import zsad", "import zsad.synthetic", "import zsad.cli.main"])
def test_cheap_imports_do_not_load_torch(statement: str) -> None:
    code = f"{statement}; import sys; print([m for m in ('torch', 'lightning', 'open_clip') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_unknown_name_of_the_package() -> None:
    with pytest.raises(AttributeError, match="module 'zsad' has no attribute 'nothing'"):
        zsad.nothing  # noqa: B018
