"""Ask an example for one score and compare it with the model's: ``python examples/check.py litserve|gradio EXPORT``."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from zsad.deploy import Runtime

HERE = Path(__file__).parent


def main(server: str, folder: str) -> None:
    """Raise unless the example tells the model's own score."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    model = Runtime(folder)
    expected = model.predict(picture, model.classes[0]).pred_score
    found = litserve(folder, picture) if server == "litserve" else gradio(folder, picture)
    assert abs(found - expected) < 1e-6, (found, expected)
    print(f"{server}: score {found:.6f}, as of the model")


def litserve(folder: str, picture: Image.Image) -> float:
    """Start the example, ask it once, end it."""
    file = io.BytesIO()
    picture.save(file, "png")
    command = [sys.executable, str(HERE / "litserve_server.py"), folder]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                answer = httpx.post("http://127.0.0.1:8000/predict", files={"image": file.getvalue()}, timeout=60)
                answer.raise_for_status()
                return float(answer.json()["score"])
            except httpx.HTTPError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers as well, which outlive it otherwise
        process.wait()


def gradio(folder: str, picture: Image.Image) -> float:
    """Make the page and call what its button calls."""
    from gradio_app import app

    page = app(folder)
    return float(page.fn(picture, Runtime(folder).classes[0])[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
