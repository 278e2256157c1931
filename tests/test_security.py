"""Promises of SECURITY.md that belong to no single module."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import open_clip
from packaging.requirements import Requirement

from zsad.clip.embedded import EMBEDDED
from zsad.clip.loading import BACKBONES, RANDOM

ROOT = Path(__file__).parents[1]


def test_every_test_that_security_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    everything = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert named
    assert not [name for name in named if f"def {name}(" not in everything]
    assert not [path for path in re.findall(r"`(tests/[\w/.]+)`", text) if not (ROOT / path).exists()]


def test_malicious_releases_of_lightning_are_excluded() -> None:
    lines = re.findall(r'^ +"(lightning[^"]+)",', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    [bound] = map(Requirement, lines)
    assert not [version for version in ("2.5.6", "2.6.2", "2.6.3") if bound.specifier.contains(version)]
    assert all(bound.specifier.contains(version) for version in ("2.6.0", "2.6.1", "2.6.4"))


def test_backbones_come_from_sources_of_open_clip() -> None:
    """Each name is one of open_clip's, with a file of its Hub or a checksum in its address."""
    names = [name for name in BACKBONES if name not in EMBEDDED and not name.endswith(f"/{RANDOM}")]
    assert names
    for name in names:
        model, _, tag = name.partition("/")
        source = open_clip.get_pretrained_cfg(model, tag)
        checked = re.search(r"/[0-9a-f]{64}/|-[0-9a-f]{8}\.pt$", source.get("url") or "")
        assert source.get("hf_hub") or checked, f"{name}: {source}"


NO_NETWORK = """
import socket, sys
asked = []
def refuse(*what, **more):
    asked.append(what)
    raise OSError("no network")
socket.getaddrinfo = socket.create_connection = refuse
connect = socket.socket.connect
def local(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        refuse(address)
    return connect(self, address)
socket.socket.connect = local
from zsad.cli.main import main
assert main(["score", "images", "--method", "clip", "--backbone", "zsad-mini", "--device", "cpu", "--out", "out"]) == 0
assert main(["doctor", "--json"]) == 0
assert not asked, asked
"""


def test_scoring_asks_no_machine_for_anything(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 40), "grey").save(tmp_path / "images" / "a.png")
    command = [sys.executable, "-c", NO_NETWORK]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "scores.jsonl").read_text(encoding="utf-8").splitlines()) == 1
