"""``run.py``: the modules of zsad that need no torch, as they stand, in one file that runs beside an exported model."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import zsad

DOORS = ("zsad.deploy.command",)
"""What ``python run.py`` calls."""

REFUSED = frozenset(
    {"torch", "torchvision", "lightning", "open_clip", "timm", "safetensors", "rich", "typing_extensions"}
)
"""Packages that no module of the file may import while it is loaded."""

_SOURCE = Path(zsad.__file__).parent

_TEMPLATE = '''\
"""Scores images with the model beside this file: python run.py PHOTOS --out results, or python run.py serve.

Written by 'zsad export' of zsad {version}, from zsad's own modules; needs what requirements.txt lists, not zsad and not
torch. The modules stand below as texts under their names and are imported from there, whatever else is installed.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import sys

MODULES = {{}}
{modules}

class _Inside(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of this file."""

    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            inner = any(other.startswith(name + ".") for other in MODULES)
            return importlib.util.spec_from_loader(name, self, origin=f"<run.py: {{name}}>", is_package=inner)
        if name.split(".")[0] == "zsad":
            raise ModuleNotFoundError(f"'{{name}}' is not part of this file: install zsad for it.", name=name)
        return None

    def exec_module(self, module):
        source, origin = MODULES[module.__name__], module.__spec__.origin
        module.__file__ = __file__  # what a module finds beside itself lies beside this file
        linecache.cache[origin] = (len(source), None, source.splitlines(True), origin)  # for traces
        exec(compile(source, origin, "exec"), module.__dict__)


sys.meta_path.insert(0, _Inside())

if __name__ == "__main__":
    from zsad.deploy.command import main

    sys.exit(main(sys.argv[1:], __file__))
'''


class BundleError(RuntimeError):
    """A module of ``run.py`` imports what it must not: a mistake in zsad, not of its user."""


def run_file() -> str:
    """Return the text of ``run.py``.

    Raises:
        BundleError: A module needs torch, or cannot stand in the file.
    """
    parts = []
    for name, source in sorted(modules().items()):
        if "'''" in source:
            raise BundleError(f"{name} contains ''' and cannot be quoted in run.py.")
        parts.append(f"MODULES[{name!r}] = r'''{source}'''\n")
    return _TEMPLATE.format(version=zsad.__version__, modules="\n".join(parts))


def modules(doors: tuple[str, ...] = DOORS) -> dict[str, str]:
    """Return the sources of everything that the doors import, by name; of packages only what is taken from them.

    Raises:
        BundleError: A module needs torch.
    """
    found: dict[str, str] = {}
    handed: dict[str, set[str]] = {"zsad": set()}  # package -> lines of its __init__ that somebody needs
    todo = list(doors)
    while todo:
        module = todo.pop()
        if module in found:
            continue
        found[module] = _file(module).read_text(encoding="utf-8")
        for package in _parents(module):
            handed.setdefault(package, set())
        for node, loading in _imports(ast.parse(found[module])):
            for name in _named(node):
                if loading and name.split(".")[0] in REFUSED:
                    raise BundleError(f"{module} imports {name}, which run.py must do without.")
            todo += _targets(node, handed)
    for package, lines in handed.items():
        version = f'__version__ = "{zsad.__version__}"\n' if package == "zsad" else ""
        found[package] = version + "".join(f"{line}\n" for line in sorted(lines))
    return found


def _targets(node: ast.Import | ast.ImportFrom, handed: dict[str, set[str]]) -> Iterator[str]:
    """Yield the modules of zsad that an import loads; note what packages hand on."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.startswith("zsad."))
        return
    if node.module is None or node.module.split(".")[0] != "zsad":
        return
    if _file(node.module).name != "__init__.py":
        yield node.module
        return
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        if (_SOURCE.parent / Path(*inner.split("."))).with_suffix(".py").is_file():
            yield inner
        elif not (node.module == "zsad" and alias.name == "__version__"):
            origin = _origin(node.module, alias.name)
            handed.setdefault(node.module, set()).add(f"from {origin} import {alias.name}")
            yield origin


def _origin(package: str, name: str) -> str:
    """Return the module from which a package hands a name on."""
    for node in ast.parse(_file(package).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return str(node.module)
    raise BundleError(f"{package} defines {name} itself: run.py takes names from modules.")


def _imports(tree: ast.AST, loading: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield the imports of a module, and whether they run while it is loaded; none that are for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, loading
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try))
            yield from _imports(node, loading and not inside)


def _named(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _file(module: str) -> Path:
    path = _SOURCE.parent / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def outside(source: str) -> set[str]:
    """Return the packages, neither zsad's nor the standard library's, that a module imports while it is loaded."""
    names = {name.split(".")[0] for node, loading in _imports(ast.parse(source)) if loading for name in _named(node)}
    return names - {"zsad", ""} - set(sys.stdlib_module_names)
