"""The workflows: valid, without the usual security holes, and true to what the project says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


def read(path: Path) -> dict[Any, Any]:
    """YAML 1.1 reads the key ``on`` as true."""
    content: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def lint(*arguments: str) -> str:
    done = subprocess.run([*arguments], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_they_follow_the_schema() -> None:
    for schema, paths in (("github-workflows", WORKFLOWS), ("dependabot", [GITHUB / "dependabot.yml"])):
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
        assert not lint(*command, *map(str, paths))


def test_a_security_linter_finds_nothing() -> None:
    program = str(Path(sys.executable).with_name("zizmor"))
    assert not lint(program, "--offline", "--no-progress", str(GITHUB))


def test_the_linters_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / ".github" / "workflows" / "bad.yml"
    bad.parent.mkdir(parents=True)
    bad.write_text(
        "on: pull_request_target\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n"
        "      - run: echo ${{ github.event.issue.title }}\n"
    )
    assert "template-injection" in lint(str(Path(sys.executable).with_name("zizmor")), "--offline", str(bad))
    bad.write_text("on: push\njobs:\n  a:\n    steps: []\n")
    assert lint(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(bad))


def test_every_supported_python_and_system_is_tested() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = re.search(r'requires-python = ">=([\d.]+)"', project)
    matrix = read(GITHUB / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert oldest
    assert matrix["python"] == [oldest[1], "3.11", "3.12", "3.13"]
    assert {"macos-latest", "windows-latest"} <= {one["os"] for one in matrix["include"]} | set(matrix["os"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_of_ours_exist(path: Path) -> None:
    sessions = set(
        re.findall(r"^@nox\.session.*\n(?:@.*\n)*def (\w+)", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.M)
    )
    from zsad.cli.main import COMMANDS

    lines = [step["run"] for job in read(path)["jobs"].values() for step in job["steps"] if "run" in step]
    for line in "\n".join(lines).splitlines():
        if line.startswith("nox -s "):
            assert set(line.split()[2:]) <= sessions
        if line.startswith("zsad "):
            assert line.split()[1] in COMMANDS


def test_the_release_has_no_password() -> None:
    jobs = read(GITHUB / "workflows" / "release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write", "attestations": "write"}
    assert "password" not in str(jobs)
    assert "secrets" not in str(jobs)
    (publish,) = (step for step in jobs["publish"]["steps"] if step["uses"].startswith("pypa/gh-action-pypi-publish"))
    assert publish["with"]["attestations"] is True


def test_templates_of_issues_ask_for_what_we_need() -> None:
    for name in ("bug", "method"):
        form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
        assert {"name", "description", "body"} <= set(form)
        for field in form["body"]:
            assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
            assert field["attributes"]
    assert (GITHUB / "pull_request_template.md").read_text(encoding="utf-8").count("- [ ]") >= 4
