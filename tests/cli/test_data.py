import json
from pathlib import Path

import pytest
from PIL import Image

from zsad.cli.main import main as zsad
from zsad.datamodules.facts import all_facts


def main(arguments: list[str]) -> int:
    return zsad(["data", *arguments])


def test_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        path = tmp_path / "x" / ("good", "bad")[i] / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)
    assert main(["list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 20
    assert main(["check", "folder", "--root", str(tmp_path / "x"), "--option", "class_name=screw", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == {"screw": {"normal": 1, "anomalous": 1}}
    assert main(["check", "mpdd", "--root", str(tmp_path / "x")]) == 1
    assert main(["download", "endo", "--root", str(tmp_path)]) == 1
    assert (
        main(["export", "folder", "--root", str(tmp_path / "x"), "--out", str(tmp_path / "list.csv"), "--kind", "csv"])
        == 0
    )
    assert (tmp_path / "list.csv").read_text().splitlines()[1] == "x/good/1.png,0,,object,good,test"
    assert main(["prepare", "sdd", "--root", str(tmp_path / "x"), "--out", str(tmp_path / "y")]) == 2


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["chek"])
    assert stopped.value.code == 2
    assert "check" in capsys.readouterr().err


def test_list_at_80_columns_is_short_and_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["key", "title", "images", "metrics", "licence"]
    for facts in all_facts().values():
        (line,) = [line for line in lines if line.startswith(f"{facts.key}  ")]
        assert facts.title.split()[0] in line
    words = {word for line in lines for word in line.split()}
    for facts in all_facts().values():
        assert {*facts.title.split(), *facts.license.split()} <= words  # no word is cut
    assert any("467 + 1258" in line for line in lines)


def test_a_pipe_gets_the_same_and_a_narrow_terminal_fewer_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {}
    for width in ("", "80", "45"):
        monkeypatch.delenv("COLUMNS", raising=False)
        if width:
            monkeypatch.setenv("COLUMNS", width)
        assert main(["list"]) == 0
        shown[width] = capsys.readouterr().out
    assert shown[""] == shown["80"]
    assert "No room for: metrics, licence. See: zsad data show KEY" in " ".join(shown["45"].split())
    keys = {line.split()[0] for line in shown["45"].splitlines() if line[:1].strip()}
    assert keys >= set(all_facts())


def test_show_has_the_rest(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for facts in all_facts().values():
        assert main(["show", facts.key]) == 0
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        text = " ".join(out.split())
        for said in (facts.title, facts.license, facts.layout, facts.counts_status, *facts.classes):
            assert " ".join(said.split()) in text
        assert main(["show", facts.key, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["key"] == facts.key


@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["check", "sdd", "--root", ".", "--option", "pieces"], "--option must be NAME=VALUE, got 'pieces'"),
        (["show", "mvtec"], "No data set 'mvtec'; nearest: ['mvtec_ad']"),
        (["check", "vissa", "--root", "."], "Unknown data set 'vissa'; known, nearest first: visa"),
        (["prepare", "mvtec_ad", "--root", ".", "--out", "x"], "'mvtec_ad' needs no preparation"),
        (["download", "visa", "--archive", "gone.tar"], "No archive 'gone.tar'"),
    ],
)
def test_mistakes_are_said_as_by_all_commands(
    command: list[str], message: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *more]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"zsad: error: {message}")
