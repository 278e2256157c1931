"""What lies beside the graph: the program that runs it, how to install it, what its parts are licensed under."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsad import __version__
from zsad.deploy.bundle import run_file
from zsad.methods import Method

_TEXTS = Path(__file__).parent / "texts"
PAGE = Path(__file__).parent / "page"

_OWN = """zsad {version}: Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0
run.py and page/ are parts of it.

Backbone: {backbone}
{backbone_terms}

{learned}
"""
_OPEN_CLIP = """Weights as open_clip names them: OpenAI's are under the MIT License, those of LAION and others under the
terms that open_clip's list of pretrained models and the page of the weights state."""
_MINI = "Embedded in zsad and under its licence; trained on generated pictures only."


def write_surroundings(folder: Path, method: Method, meta: Mapping[str, Any]) -> None:
    """Write ``run.py``, ``requirements.txt``, ``page/``, ``Dockerfile``, ``compose.yaml``, README and licences."""
    (folder / "run.py").write_text(run_file(), encoding="utf-8")
    classes = [] if meta["class_agnostic"] else meta["classes"]
    words = {
        "method": meta["model"]["method"],
        "backbone": meta["model"]["backbone"],
        "version": __version__,
        "classes": ", ".join(classes) or "any",
        "class_option": f' --class-name "{classes[0]}"' if classes else "",
    }
    readme = (_TEXTS / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(readme.format(**words), encoding="utf-8")
    (folder / "LICENCES.txt").write_text(licences(method), encoding="utf-8")
    for name in ("requirements.txt", "Dockerfile", "compose.yaml"):
        shutil.copyfile(_TEXTS / name, folder / name)
    if PAGE.is_dir():
        shutil.copytree(PAGE, folder / "page")


def licences(method: Method) -> str:
    """Return what is known of the terms of zsad, of the backbone, and of what the method learned from."""
    trained_on = getattr(method, "trained_on", None) or []
    names = ", ".join(str(one.get("data") or one.get("name") or one) for one in trained_on)
    learned = getattr(method, "licence_notice", None) or (
        f"Learned parameters, trained on: {names}; ask whoever trained them for the terms."
        if method.learns()
        else "The method learns no parameters."
    )
    terms = _MINI if method.clip.embedded else _OPEN_CLIP
    return _OWN.format(version=__version__, backbone=method.clip.name, backbone_terms=terms, learned=learned)
