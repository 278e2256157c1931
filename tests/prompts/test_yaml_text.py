"""YAML that should not be read, from every door that takes some."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsad.benchmark.grid import DataSpec, MethodSpec
from zsad.cli import main as cli
from zsad.cli.model_options import read_options
from zsad.methods.alfa.prompts import load_alfa_prompts
from zsad.prompts import load_prompts
from zsad.prompts.yaml_text import read_yaml

TAG = "!!python/object/apply:os.system ['touch marker']"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TAG, "holds more than plain values: could not determine a constructor for the tag"),
        (BOMB, "writes out to more than 1000000 values"),
        ("&a [*a]", "writes out to more than 1000000 values"),
        ("[" * 5000, "is not YAML"),
        ("{a: 1", "is not YAML: expected"),
        ("a: 1\n---\nb: 2", "is not YAML: but found another document"),
    ],
    ids=["tag", "bomb", "circle", "depth", "half", "two"],
)
def test_every_door_refuses_in_one_sentence(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evil.yaml"
    file.write_text(text)
    for read in (
        lambda: read_yaml(text, "x"),
        lambda: read_options([f"prompts={text}"]),
        lambda: load_prompts(str(file)),
        lambda: load_alfa_prompts(str(file)),
        lambda: MethodSpec.parse(str(file)),
        lambda: DataSpec.parse(str(file)),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
    picture = tmp_path / "a.png"
    picture.touch()
    common = ["score", str(picture), "--out", str(tmp_path / "out"), "--method", "clip", "--backbone", "zsad-mini"]
    data = ["--data", "Folder", "--data.root", str(tmp_path)]
    for arguments in (
        [*common, "--option", f"temperature={text}"],
        [*common, "--option", f"prompts={file}"],
        ["test", "--config", str(file), "--model", "CLIP", *data],
        ["benchmark", "--methods", str(file), "--data", f"Folder={tmp_path}", "--out", str(tmp_path / "out")],
    ):
        capsys.readouterr()
        assert cli.main(arguments) == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert "Traceback" not in shown
        assert len(shown.partition("zsad: error: ")[2].strip().splitlines()) == 1
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("value", ["!!python/name:os.system", "&a [*a, *a]"])
def test_values_of_trainer_options_too(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", "Folder", "--data.root", str(tmp_path)]
    assert cli.main(["test", "--model", "WinCLIP", f"--model.scales={value}", *data]) == 2
    assert "--model.scales" in capsys.readouterr().err


def test_plain_values_are_read() -> None:
    assert read_yaml("a: &x [1, 2.5, true, null, text]\nb: *x\nc: {<<: {d: 1}}", "x") == {
        "a": [1, 2.5, True, None, "text"],
        "b": [1, 2.5, True, None, "text"],
        "c": {"d": 1},
    }
    assert read_yaml("", "x") is None
