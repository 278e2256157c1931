"""Imports go one way, by wing and by module, and importing the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import zsad

SOURCE = Path(zsad.__file__).parent

# upper floors first: a wing may import from its own floor, without a circle, and from every floor below
FLOORS = [
    {"cli", "__main__"},
    {"benchmark", "scale", "deploy"},
    {"inference"},
    {"decision", "methods"},
    {"datamodules", "metrics"},
    {"weights", "clip", "images", "prompts", "llm", "training", "functional", "synthetic", "report"},
    {"types"},
]
HALL = {"__init__.py", "__main__.py", "types.py", "py.typed"}
FILES = sorted(SOURCE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Dotted name of a file."""
    return ".".join(("zsad", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def imported(path: Path, at_start: bool = False) -> set[str]:
    """Modules of zsad that a file imports: anywhere and for type checking too, or only while it is loaded itself."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    found: set[str] = set()
    while nodes:
        node = nodes.pop()
        if at_start and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "zsad":
            deeper = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            found |= deeper or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES
    return found - {"zsad", module_of(path)}


def wing(module: str) -> str:
    """The wing that a module belongs to."""
    return module.split(".")[1]


def floor(name: str) -> int:
    """Number of a wing's floor, from above."""
    for number, wings in enumerate(FLOORS):
        if name in wings:
            return number
    raise AssertionError(f"'{name}' has no floor: add it to FLOORS, as low as it can stand.")


def circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """A circle of a graph, None if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_import_points_upwards(path: Path) -> None:
    if path == SOURCE / "__init__.py":
        return  # offers names of upper floors lazily
    own = wing(module_of(path))
    for other in map(wing, imported(path)):
        assert floor(other) >= floor(own), f"{path.name} of '{own}' imports '{other}' from a floor above"


def test_no_circle_of_wings() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        if (name := module_of(path)) != "zsad":
            graph.setdefault(wing(name), set()).update(map(wing, imported(path)))
    assert circle({name: others - {name} for name, others in graph.items()}) is None


def test_no_circle_of_modules() -> None:
    graph = {module_of(path): imported(path, at_start=True) for path in FILES if path.parent != SOURCE}
    inner = {  # a package's own __init__ hands on what its modules define
        name: {other for other in others if not name.startswith(f"{other}.")} for name, others in graph.items()
    }
    assert circle(inner) is None


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None


def test_only_few_things_stand_in_the_hall() -> None:
    assert {path.name for path in SOURCE.iterdir() if path.is_file()} <= HALL


def test_packages_hand_on_and_define_nothing() -> None:
    registries = {"zsad", "zsad.methods", "zsad.datamodules", "zsad.prompts"}  # their tables are what they are for
    for path in SOURCE.rglob("__init__.py"):
        if module_of(path) in registries:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [one for one in ast.walk(tree) if isinstance(one, (ast.FunctionDef, ast.ClassDef))], path


@pytest.mark.parametrize(
    "statement", ["import zsad", "import zsad.synthetic", "import zsad.cli.main", "import zsad.decision"]
)
def test_cheap_imports_do_not_load_torch(statement: str) -> None:
    code = f"{statement}; import sys; print([m for m in ('torch', 'lightning', 'open_clip') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize(
    "statement",
    [
        "from zsad import load_model",
        "from zsad.inference.loading import FIRST_LOOK",
        "import zsad.images, zsad.inference, zsad.inference.rows",
        "from zsad.cli.score_arguments import parser; parser().format_help()",
    ],
)
def test_what_answers_at_once_loads_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "torchvision", "lightning", "open_clip", "scipy", "skimage", "matplotlib", "albumentations"}
    code = f"{statement}; import sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_of_score_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # importing it raises
        "from zsad.cli.main import main\n"
        "main(['score', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--fast-decode" in done.stdout
    assert "anomalyclip  yes      1" in done.stdout


def test_unknown_name_of_the_package() -> None:
    with pytest.raises(AttributeError, match="module 'zsad' has no attribute 'nothing'"):
        zsad.nothing  # noqa: B018
