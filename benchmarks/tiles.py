"""What tiles find that a whole picture hides: small defects in synthetic textures of 4,096 pixels, and the memory.

Run ``python -m benchmarks.tiles`` for the defects, and with ``--memory`` for a picture of a hundred
megapixels, scored in a fresh process with and without tiles. The model is the embedded zsad-mini.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from rich.console import Console

from zsad import Tiles, load_model
from zsad.inference import Predictor
from zsad.metrics import aupro, auroc
from zsad.synthetic.textures import TEXTURES

PER_PICTURE = 8  # defects
MASK = 1024  # side of maps and masks that are compared


def textured(name: str, side: int, seed: int) -> Image.Image:
    """Return a picture of a texture as a camera of that resolution sees it."""
    rng = np.random.default_rng([seed, len(name)])
    small = TEXTURES[name](rng, side // 4)  # structures of 16 to 40 pixels, as in a close photo
    picture = Image.fromarray((np.clip(small, 0, 1) * 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    noise = rng.normal(0, 2.5, (side, side, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def damaged(picture: Image.Image, size: int, seed: int) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Return a picture with short scratches of ``size`` pixels, and where they are at the masks' size."""
    rng = np.random.default_rng([seed, size])
    side = picture.width
    layer = Image.new("L", picture.size)
    draw = ImageDraw.Draw(layer)
    for _ in range(PER_PICTURE):
        x, y = rng.uniform(size, side - size, 2)
        angle = rng.uniform(0, np.pi)
        across, down = size / 2 * np.cos(angle), size / 2 * np.sin(angle)
        draw.line((x - across, y - down, x + across, y + down), fill=255, width=max(2, size // 4))
    mask = np.asarray(layer).reshape(MASK, side // MASK, MASK, side // MASK).max(axis=(1, 3)) > 0
    mean = float(np.asarray(picture.convert("L").resize((64, 64))).mean())
    colour = (25, 20, 20) if mean > 110 else (235, 235, 230)
    layer = layer.filter(ImageFilter.GaussianBlur(0.7))
    return Image.composite(Image.new("RGB", picture.size, colour), picture, layer), mask


def quality(model: Predictor, pictures: list[tuple[str, Image.Image, NDArray[np.bool_]]]) -> dict[str, float]:
    """Return pixel AUROC and AUPRO of a predictor, means over the pictures' classes, and seconds per picture."""
    found: dict[str, list[float]] = {"pixel_auroc": [], "pixel_aupro": []}
    before = time.perf_counter()
    for name, picture, mask in pictures:
        heat = torch.from_numpy(model.predict(picture, name, size=MASK).anomaly_map)
        marked = torch.from_numpy(mask)
        found["pixel_auroc"].append(auroc(heat.flatten(), marked.flatten().long()).item())
        found["pixel_aupro"].append(aupro(heat, marked).item())
    seconds = (time.perf_counter() - before) / len(pictures)
    return {key: float(np.mean(values)) for key, values in found.items()} | {"seconds": seconds}


def defects(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each size of defect, with and without tiles."""
    plain = load_model(args.method, "zsad-mini", device=args.device, batch_size=32)
    tiled = Predictor(plain.method, args.device, 32, tiles=Tiles(args.tile))
    rows = []
    clean = {name: textured(name, args.side, seed) for seed, name in enumerate(args.textures)}
    for size in args.sizes:
        pictures = [(name, *damaged(picture, size, seed)) for seed, (name, picture) in enumerate(clean.items())]
        for label, model in (("whole", plain), (f"tiles of {args.tile}", tiled)):
            rows.append({"defect": size, "scored": label, **quality(model, pictures)})
            Console(stderr=True).print(rows[-1])
    return rows


_ALONE = """
import resource, sys
from PIL import Image
Image.MAX_IMAGE_PIXELS = None
from zsad import Tiles, load_model
tiles = Tiles(int(sys.argv[2])) if sys.argv[2] != "0" else None
model = load_model("clip", "zsad-mini", device="cpu", batch_size=8, tiles=tiles)
size = "native" if sys.argv[3] == "native" else int(sys.argv[3])
model.predict(Image.new("RGB", (300, 300)), "wood")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = model.predict(sys.argv[1], "wood", size=size)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what a picture of a hundred megapixels adds to the peak of a fresh process, in 10^9 bytes (Linux)."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.jpg")
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)).resize(
            (10_000, 10_000)
        ).save(path)
        for tile, size in (("0", "native"), ("1024", "native"), ("1024", "512"), ("256", "512")):
            before = time.perf_counter()
            command = [sys.executable, "-c", _ALONE, str(path), tile, size]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds = time.perf_counter() - before
            rows.append({"tile": int(tile) or None, "size": size, "gb": int(done.stdout) / 1e9, "seconds": seconds})
            Console(stderr=True).print(rows[-1])
    return rows


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="the picture of a hundred megapixels")
    parser.add_argument("--method", default="clip")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 15, 40], help="of the defects, in pixels")
    parser.add_argument("--textures", nargs="+", default=["leather", "metal", "wood"])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    rows = memory(args) if args.memory else defects(args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Console().print_json(json.dumps({"rows": rows, "load": os.getloadavg()[0], "peak_bytes": peak}))


if __name__ == "__main__":
    main()
