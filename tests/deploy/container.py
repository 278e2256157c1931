"""Do what an exported folder's Dockerfile says, without an engine: ``python tests/deploy/container.py EXPORT``.

Its RUN line makes a new environment, its ENTRYPOINT runs in that one on a copy of the folder without write permission,
and its HEALTHCHECK is asked. The user is the one who runs this.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

TOKEN = "a-token-of-this-check-0123456789"


def main(export: str) -> None:
    """Raise unless all of it works."""
    root = Path(tempfile.mkdtemp(prefix="zsad-container-"))
    root.chmod(0o755)
    try:
        lines = (Path(export) / "Dockerfile").read_text(encoding="utf-8").splitlines()
        shutil.copytree(export, root / "model")
        shutil.copy(root / "model" / "requirements.txt", root)
        run, health, entry = (
            placed(next(line.partition(word)[2].strip() for line in lines if word in line), root)
            for word in ("RUN ", " CMD ", "ENTRYPOINT ")
        )
        subprocess.run(run.replace("python -m venv", f"{sys.executable} -m venv"), shell=True, check=True)
        for path in (root / "model", *(root / "model").rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        settings = {"PATH": f"{root}/packages/bin:{os.defpath}", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nowhere"}
        command = json.loads(entry)
        program = [f"{root}/packages/bin/{command[0]}", *command[1:]]
        refused = subprocess.run(program, env=settings, cwd="/", capture_output=True, text=True, check=False)
        assert refused.returncode == 2, refused
        assert "token" in refused.stderr, refused.stderr
        server = subprocess.Popen(program, env=settings | {"ZSAD_TOKEN": TOKEN}, cwd="/")
        try:
            asked(health, settings, server)
            scored(root)
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, "it did not end well"
        print("RUN, ENTRYPOINT without and with a token, HEALTHCHECK, a score, SIGTERM: all as it should be")
    finally:
        shutil.rmtree(root)


def placed(command: str, root: Path) -> str:
    """Return a command of the container with its absolute paths below another folder."""
    for name in ("/packages", "/requirements.txt", "/model"):
        command = command.replace(f" {name}", f" {root}{name}").replace(f'"{name}', f'"{root}{name}')
    return command


def asked(health: str, settings: dict[str, str], server: "subprocess.Popen[bytes]") -> None:
    """Wait until the container would count as healthy."""
    end = time.monotonic() + 120
    while subprocess.run(health, shell=True, env=settings, capture_output=True, check=False).returncode:
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < end, "it is never ready"
        time.sleep(0.5)


def scored(root: Path) -> None:
    """Have a picture scored, with the token."""
    from PIL import Image

    file = root / "photo.png"
    Image.linear_gradient("L").save(file)
    classes = json.loads((root / "model" / "meta.json").read_text(encoding="utf-8"))["classes"]
    address = f"http://127.0.0.1:8000/v1/score?class_name={urllib.parse.quote(classes[0])}"
    heads = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}
    with urllib.request.urlopen(urllib.request.Request(address, file.read_bytes(), heads)) as answer:
        assert isinstance(json.load(answer)["score"], float)


if __name__ == "__main__":
    main(*sys.argv[1:])
