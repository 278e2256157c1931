"""How long so many images take on so many machines, and what the machines wait for.

``python benchmarks/capacity.py --measure costs.json`` measures the costs of one image on this machine;
``python benchmarks/capacity.py --costs costs.json --images 10000000 --nodes 1 8`` computes with them. Any cost may be
given by hand: ``--gpu 0.0025`` (seconds of one GPU), ``--decode 0.03`` (seconds of one core), ...
"""

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from rich.console import Console

from zsad import load_model
from zsad.images.overlay import MapFormat
from zsad.inference.raw_maps import RawMaps
from zsad.synthetic import generate


@dataclass(frozen=True)
class Costs:
    """What one image costs.

    Args:
        gpu: Seconds of one accelerator, or of one worker's processor where there is none.
        decode: Seconds of one core to read, decode and resize it.
        draw: Seconds of one core to draw and encode its heat map; 0 without.
        write: Seconds of one core to encode its raw map; 0 without.
        read_bytes: Size of its file.
        row_bytes: Of its row.
        overlay_bytes: Of its heat map; 0 without.
        map_bytes: Of its raw map; 0 without.
        start: Seconds from the command to the first batch.
    """

    gpu: float = 0.0025
    decode: float = 0.030
    draw: float = 0.0
    write: float = 0.0
    read_bytes: float = 400e3
    row_bytes: float = 150.0
    overlay_bytes: float = 0.0
    map_bytes: float = 0.0
    start: float = 60.0


@dataclass(frozen=True)
class Node:
    """One machine.

    Args:
        workers: GPUs, or processes where there are none.
        cores: For reading, drawing and writing.
        megabytes: Per second between it and the storage, each way.
    """

    workers: int = 8
    cores: int = 96
    megabytes: float = 2000.0


def rates(costs: Costs, node: Node) -> dict[str, float]:
    """Return the images per second that each part of one machine could do by itself."""
    written = costs.row_bytes + costs.overlay_bytes + costs.map_bytes
    every = {
        "model": (node.workers, costs.gpu),
        "cores": (node.cores, costs.decode + costs.draw + costs.write),
        "reading": (node.megabytes * 1e6, costs.read_bytes),
        "writing": (node.megabytes * 1e6, written),
    }
    return {name: there / cost if cost else math.inf for name, (there, cost) in every.items()}


def plan(costs: Costs, node: Node, images: int, nodes: int, block: int = 1000) -> dict[str, float | str]:
    """Return hours, what the machines wait for, and what lies on the storage afterwards.

    The last blocks do not end together: half a block per worker is added.
    """
    found = rates(costs, node)
    bottleneck = min(found, key=lambda name: found[name])
    speed = found[bottleneck] * nodes
    tail = 0.5 * block * node.workers / found[bottleneck]
    seconds = costs.start + images / speed + (tail if images > block * node.workers * nodes else 0.0)
    return {
        "nodes": nodes,
        "workers": nodes * node.workers,
        "hours": seconds / 3600,
        "images_per_second": speed,
        "bottleneck": bottleneck,
        "cores_per_worker_needed": (costs.decode + costs.draw + costs.write) / costs.gpu if costs.gpu else math.inf,
        "read_tb": images * costs.read_bytes / 1e12,
        "written_gb": images * (costs.row_bytes + costs.overlay_bytes + costs.map_bytes) / 1e9,
        "lost_by_a_kill": block * nodes * node.workers,
    }


def each(action: Callable[[], object], seconds: float = 1.5) -> float:
    """Return the processor seconds of one call, the median of five rounds."""
    action()
    rounds = []
    for _ in range(5):
        number, started = 0, time.process_time()
        while time.process_time() - started < seconds / 5:
            action()
            number += 1
        rounds.append((time.process_time() - started) / number)
    return float(np.median(rounds))


def photo(side: tuple[int, int]) -> bytes:
    """Return a JPEG of that size with the detail of a photo."""
    picture = Image.fromarray(generate("coin", seed=0).image).resize(side, Image.Resampling.BICUBIC)
    noise = np.random.RandomState(0).normal(0, 4, (side[1], side[0], 1))
    buffer = io.BytesIO()
    pixels = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def measure(method: str, backbone: str, side: tuple[int, int], overlay_size: int) -> dict[str, float]:
    """Return what one image costs here, in parts; processor seconds, and bytes."""
    model = load_model(method, backbone, device="cpu", batch_size=8)
    content = photo(side)
    with TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "photo.jpg"
        file.write_bytes(content)
        result = model.predict(file, "coin", size=overlay_size)
        prepared = model.prepare(Image.open(file).convert("RGB"))[None].repeat(8, 1, 1, 1)
        found = {
            "decode": each(lambda: model.prepare(Image.open(file).convert("RGB"))),
            "gpu": each(lambda: model.method.eval()(prepared, ["coin"] * 8)) / 8,
            "draw": each(lambda: result.save(folder / "overlay.jpg")),
            "read_bytes": float(len(content)),
            "overlay_bytes": float((folder / "overlay.jpg").stat().st_size),
        }
        formats: tuple[MapFormat, ...] = ("npy", "tiff16")
        for kind in formats:
            maps = RawMaps(kind)
            found[f"write_{kind}"] = each(lambda maps=maps: maps.save(result, folder, "map"))  # type: ignore[misc]
            found[f"map_bytes_{kind}"] = float(next(folder.glob(f"map.{kind[:3]}*")).stat().st_size)
    return found


def main() -> None:
    """Measure, or compute, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="FILE", help="measure here and write the costs")
    parser.add_argument("--method", default="clip")
    parser.add_argument("--backbone", default="zsad-mini")
    parser.add_argument("--pixels", type=int, nargs=2, default=(4000, 3000), metavar=("W", "H"), help="of the photo")
    parser.add_argument("--overlay-size", type=int, default=512)
    parser.add_argument("--costs", type=Path, metavar="FILE", help="as --measure wrote them")
    for field in fields(Costs):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--workers", type=int, default=8, help="GPUs, or processes, of a node")
    parser.add_argument("--cores", type=int, default=96, help="of a node")
    parser.add_argument("--megabytes", type=float, default=2000.0, help="per second between a node and the storage")
    parser.add_argument("--block", type=int, default=1000)
    args = parser.parse_args()
    if args.measure is not None:
        found = measure(args.method, args.backbone, tuple(args.pixels), args.overlay_size)
        args.measure.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        Console(soft_wrap=True).print_json(json.dumps(found))
        return
    costs = replace(Costs(), **known(json.loads(args.costs.read_text(encoding="utf-8")) if args.costs else {}))
    typed = {name: getattr(args, name) for name in asdict(costs) if getattr(args, name) is not None}
    costs, node = replace(costs, **typed), Node(args.workers, args.cores, args.megabytes)
    plans = [plan(costs, node, args.images, nodes, args.block) for nodes in args.nodes]
    Console(soft_wrap=True).print_json(
        json.dumps({"costs": asdict(costs), "rates": rates(costs, node), "plans": plans})
    )


def known(values: Mapping[str, float]) -> dict[str, float]:
    """Return those of a file's values that are costs."""
    return {field.name: values[field.name] for field in fields(Costs) if field.name in values}


if __name__ == "__main__":
    main()
