"""How long the page of a scored folder of 10,000 images takes to write, and to open in Chromium.

``python -m benchmarks.index_page --images 10000``

A round opens a new browser at an empty page; its time runs from the address to the first picture that is drawn. The
least of the rounds is told.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait
from tests.browser.chromium import opened

from zsad.inference.index_page import write_index
from zsad.inference.rows import Row
from zsad.inference.settings import write_settings


def folder_of(folder: Path, number: int) -> None:
    """Write the rows of so many images of three classes, one of ten with a region, and their heat maps."""
    (folder / "overlays").mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((512, 384), Image.Resampling.BICUBIC).save(folder / "overlay.jpg")
    lines = []
    for place, score in enumerate(rng.random(number)):
        overlay = f"overlays/{place:06d}.jpg"
        os.link(folder / "overlay.jpg", folder / overlay)
        regions = [{"area": 100 + place % 900}] if score > 0.9 else None
        kind = ("nut", "bolt", "gear")[place % 3]
        row = Row(
            f"line/{place:06d}.jpg", float(score), class_name=kind, label=int(score > 0.9), p_value=0.25,
            overlay=overlay, n_regions=len(regions or ()), regions=regions, width=4096, height=3072,
        )  # fmt: skip
        lines.append(row.line())
    (folder / "scores.jsonl").write_text("".join(lines), encoding="utf-8")
    settings = {"base": str(folder), "method": "CLIP", "backbone": "zsad-mini", "threshold": 0.9}
    write_settings(folder, settings)


def main() -> None:
    """Print one JSON object."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--images", type=int, default=10_000)
    made.add_argument("--rounds", type=int, default=3)
    args = made.parse_args()
    shown = "return document.querySelector('#gallery figure img')?.naturalWidth"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder_of(folder, args.images)
        start = time.perf_counter()
        page = write_index(folder)
        written = time.perf_counter() - start
        times = []
        for _ in range(args.rounds):
            with opened("about:blank") as browser:
                start = time.perf_counter()
                browser.get(page.as_uri())
                WebDriverWait(browser, 60, 0.01).until(lambda driver: driver.execute_script(shown) == 512)
                times.append(time.perf_counter() - start)
        size = page.stat().st_size
    found = {"images": args.images, "page_mb": size / 1e6, "write_s": written, "open_s": min(times)}
    print(json.dumps({key: round(value, 2) for key, value in found.items()} | {"load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
