"""The fenced blocks of the documentation, and the stand-ins with which they run.

A block runs as it is written. What a machine without network, data sets and hours lacks is substituted:

* every backbone that a method loads is ``zsad-mini``;
* every published data set holds eight generated pictures of its first class, and counts are not compared;
* ``photos/``, ``good_parts/`` and the like are folders of generated pictures;
* training is one epoch, a benchmark has the first of its seeds, and ``last.ckpt`` is the newest checkpoint of the page.

``<!-- not run: reason -->`` on the line before a block leaves it out; ``<!-- setup ... -->`` holds Python that runs
before the next block and is not shown.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from zsad.cli.main import main
from zsad.clip import load_clip
from zsad.datamodules import DATAMODULES
from zsad.synthetic import generate
from zsad.types import Record

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"(?:^<!--\s*(?P<kind>not run:|setup)\s*(?P<note>.*?)-->\n)?^```(?P<language>bash|sh|shell|console|python|py)\n"
    r"(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    code: str
    line: int
    setup: str = ""
    reason: str | None = None


def blocks_of(text: str) -> Iterator[Block]:
    """Yield the bash and Python blocks of a page."""
    for found in _BLOCK.finditer(text):
        note = (found["note"] or "").strip()
        yield Block(
            "python" if found["language"].startswith("py") else "bash",
            found["code"],
            text[: found.start("code")].count("\n"),
            note if found["kind"] == "setup" else "",
            note if found["kind"] == "not run:" else None,
        )


def commands_of(code: str) -> Iterator[list[str]]:
    """Yield the words of each command of a bash block."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run_command(words: list[str], folder: Path) -> None:
    """Run one command of the documentation in this process."""
    if words[:3] == ["python", "-m", "tests.parity"]:
        from tests.parity.__main__ import main as parity

        assert parity([str(ROOT / words[3])]) == 0
        return
    assert words[0] == "zsad", f"'{words[0]}' is no command of ours: say in the page why it is not run"
    words = [_substitute(word, folder) for word in words[1:]]
    if words[0] in ("fit", "test", "validate", "predict"):
        words = [word for place, word in enumerate(words) if "max_epochs" not in words[max(0, place - 1)] + word]
        words += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
        words += ["--trainer.max_epochs", "1"] if words[0] == "fit" else []
    if "--seeds" in words:
        first = words.index("--seeds") + 1
        words = [word for place, word in enumerate(words) if place <= first or not word.isdecimal()]
    if words[0] == "benchmark" and "--epochs" not in words:
        words += ["--epochs", "1"]
    assert main(words) == 0, " ".join(words)


def _substitute(word: str, folder: Path) -> str:
    if word.endswith("last.ckpt"):
        return str(max(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns))
    return word


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folder the working directory, with pictures for every page, and put the substitutes in place."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    for name in ("benchmarks", "docs"):
        (folder / name).symlink_to(ROOT / name)
    for place, count in {"photos": 3, "good_parts": 2, "tomorrow": 1, "images": 2}.items():
        for number in range(count):
            _write(folder / place / f"{number + 1:04d}.jpg", "cork", "dent" if number else "", 50 + number + 10 * count)
    _write(folder / "photo.png", "cork", "dent", 7)
    for number in range(8):
        _write(folder / "pool" / f"{number}.png", "cork", "dent" if number > 5 else "", number)
    mini = load_clip("zsad-mini")
    monkeypatch.setattr("zsad.methods.base.load_clip", lambda *_, **__: mini)
    for kind in DATAMODULES.values():
        if kind.name not in ("folder", "synthetic", "manifest"):
            monkeypatch.setattr(kind, "records", lambda self, split: _records(self, folder / "pool", split))
            monkeypatch.setattr(kind, "expected_counts", lambda self: {})
    monkeypatch.setattr("zsad.datamodules.base.check_counts", lambda *_: None)


def _write(path: Path, class_name: str, defect: str, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sample = generate(class_name, defect, seed)
    Image.fromarray(sample.image).save(path)
    if path.parent.name == "pool":
        Image.fromarray(sample.mask).save(path.with_name(f"{path.stem}_mask.gif"))


def _records(module: Any, pool: Path, split: str) -> Iterator[Record]:
    """Four normal pictures for training, two normal and two anomalous ones for the test."""
    classes = module.classes or module.facts.classes[:1]
    for name in classes:
        if split == "train":
            yield from (Record(pool / f"{number}.png", name, 0) for number in range(4))
            continue
        yield from (Record(pool / f"{number}.png", name, 0, None, "good") for number in (4, 5))
        for number in (6, 7):
            yield Record(pool / f"{number}.png", name, 1, pool / f"{number}_mask.gif", "dent")
