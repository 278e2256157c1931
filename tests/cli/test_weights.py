"""``zsad weights``: every subcommand, through the door that users take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.served import Published, Server, git_blob, prompts_file
from zsad.cli.main import main
from zsad.clip import load_clip
from zsad.methods import AnomalyCLIP
from zsad.weights import backbones, list_weights
from zsad.weights.registry import find
from zsad.weights.store import cached, is_here

NAME = "anomalyclip/visa"


@pytest.fixture
def content(published: Published, tmp_path: Path) -> bytes:
    """The bytes of published adapters for the embedded backbone."""
    made = prompts_file(tmp_path / "source.pth")
    published.publish(NAME, made)
    return made


def weights(*arguments: str) -> int:
    return main(["weights", *arguments])


def test_the_real_list_shows_terms(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert weights("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert {entry.name for entry in list_weights()} <= {line.split()[0] for line in lines if line[:1].strip()}
    assert "No room for: data, code, backbone. See: zsad weights list --json" in " ".join(" ".join(lines).split())
    assert weights("list", "vand", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["commercial"], row["here"]) for row in rows] == [
        ("vand/visa", "yes", False),
        ("vand/mvtec_ad", "no", False),
    ]
    assert rows[0]["files"][0]["git_blob"] == "86d6848c543f8393663d35c0333498ffb5ce9b68"
    assert rows[1]["data_licence"] == "CC BY-NC-SA 4.0"


def test_download_verify_remove(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights("download", NAME) == 0
    path = cached(find(NAME))
    assert path is not None
    assert str(path) in capsys.readouterr().out
    assert weights("verify") == 0
    assert capsys.readouterr().out == f"{NAME}: right\n"
    path.write_bytes(b"changed")
    assert weights("verify", NAME) == 1
    assert f"{NAME}: WRONG" in capsys.readouterr().out
    assert weights("remove", NAME) == 0
    assert not is_here(find(NAME))
    assert weights("verify") == 0
    assert weights("verify", NAME) == 0
    assert "not here" in capsys.readouterr().out


def test_names_or_all(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights("download") == 2
    assert weights("download", NAME, "--all") == 2
    assert "Give names of adapters ('zsad weights list'), or --all." in capsys.readouterr().err
    assert weights("download", "anomalyclip/btad") == 2
    assert "No adapters 'anomalyclip/btad'. There are: anomalyclip/visa" in capsys.readouterr().err
    assert weights("download", "--all", "--keep") == 0
    path = cached(find(NAME))
    assert path is not None
    assert path.with_suffix(".pth").read_bytes() == content


def test_add_and_pin(
    content: bytes,
    published: Published,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    assert weights("add", NAME, str(tmp_path / "source.pth")) == 0
    assert is_here(find(NAME))
    (tmp_path / "other.pth").write_bytes(content + b"x")
    assert weights("add", NAME, str(tmp_path / "other.pth")) == 2
    assert "is not the file that is published as 'anomalyclip/visa'" in capsys.readouterr().err
    monkeypatch.delenv("ZSAD_OFFLINE")
    published.publish(NAME, content, sha256=None, size=None)
    assert weights("pin", NAME) == 0
    shown = capsys.readouterr().out
    assert f"git_blob: {git_blob(content)}" in shown
    assert f"size: {len(content)}" in shown


def test_a_file_without_a_published_hash_is_added_with_a_word(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts_file(tmp_path / "mine.pth")
    source = {"kind": "drive", "drive_id": "abc", "file": "mine.pth"}
    published.publish(NAME, b"", source=source, status="manual", git_blob=None, sha256=None, size=None)
    assert weights("download", NAME) == 2
    assert "is published on a drive that programs cannot read" in capsys.readouterr().err
    assert weights("add", NAME, str(tmp_path / "mine.pth")) == 0
    assert "Nobody published a hash of this file" in capsys.readouterr().err


def test_a_machine_without_a_network_is_set_up_from_a_folder(
    published: Published,
    other_server: Server,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "zsad-test-small", config)
    source = {"url": other_server.url("/small.safetensors"), "quick_gelu": False}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "zsad-test-small", {"tag": source})
    monkeypatch.setenv("HOME", str(tmp_path / "user"))  # open_clip's cache of plain addresses lies below
    tower = load_clip("zsad-test-small/random")
    state = {key: value.clone() for key, value in tower.model.state_dict().items()}
    save_file(state, tmp_path / "small.safetensors")
    other_server.files["/small.safetensors"] = (tmp_path / "small.safetensors").read_bytes()
    published.publish(NAME, prompts_file(tmp_path / "x.pth", backbone_width=32), backbone="zsad-test-small/tag")
    carried = tmp_path / "stick"
    assert weights("download", "--all", "--to", str(carried)) == 0
    assert sorted(str(path.relative_to(carried)) for path in carried.rglob("*") if path.is_file()) == [
        "anomalyclip/visa.pth",
        "backbones/zsad-test-small/tag/backbone.json",
        "backbones/zsad-test-small/tag/small.safetensors",
    ]
    asked = len(published.server.asked), len(other_server.asked)
    assert weights("download", "--all", "--to", str(carried)) == 0  # nothing is left to do
    assert (len(published.server.asked), len(other_server.asked)) == asked

    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ZSAD_HOME", str(tmp_path / "elsewhere" / "zsad"))
    monkeypatch.setenv("ZSAD_WEIGHTS_MIRROR", str(carried))
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    from zsad import load_model

    model = load_model("anomalyclip", device="cpu")
    assert model.method.clip.name == "zsad-test-small/tag"
    assert torch.equal(model.method.clip.model.visual.proj, tower.model.visual.proj)
    assert model.method.trained_on[0]["adapters"] == NAME  # type: ignore[index]
    assert (len(published.server.asked), len(other_server.asked)) == asked
    capsys.readouterr()
    assert weights("verify") == 0
    assert "zsad-test-small/tag: right" in capsys.readouterr().out
    stored = backbones.stored("zsad-test-small/tag")
    assert stored is not None
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert weights("verify") == 1
    stored.write_bytes(content[:-1])
    assert backbones.stored("zsad-test-small/tag") is None
    assert backbones.stored("../zsad-test-small/tag") is None


def test_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = AnomalyCLIP("zsad-mini", n_ctx=2, depth=1)
    model.trained_on = [{"name": "visa", "root": "/home/me/visa", "images": 10, "epochs": 1}]
    path = model.save_weights(tmp_path / "mine.safetensors")
    command = ["card", str(path), "--out", str(tmp_path / "out"), "--licence", "cc-by-4.0"]
    assert weights(*command) == 2
    assert "Give --results, a folder of 'zsad benchmark', or --no-metrics" in capsys.readouterr().err
    assert weights(*command, "--no-metrics", "--reproduce", "zsad fit ...", "--backbone", "zsad-mini") == 0
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "**No benchmark result goes with these adapters**" in page
    assert "zsad fit ..." in page
    assert "/home/me" not in page


def test_whether_files_are_still_there(
    content: bytes, published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights("list", "--reach") == 0
    assert f"there  {NAME}  HTTP 200, {len(content)} bytes  http://127.0.0.1" in capsys.readouterr().out
    published.server.files.clear()
    assert weights("list", "--reach") == 1
    assert f"GONE  {NAME}  HTTP 404" in capsys.readouterr().out
