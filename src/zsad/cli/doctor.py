"""Show versions, devices, weights, what works offline."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from zsad import __version__
from zsad.cli.arguments import Parser
from zsad.clip.embedded import MINI
from zsad.clip.loading import BACKBONES, cache_folders, cached_weights
from zsad.clip.text_store import TextStore
from zsad.methods import METHODS, outside_methods
from zsad.report.terminal import tables
from zsad.weights.places import mirror, offline_reason, shown, weights_folder
from zsad.weights.registry import default_for, list_weights
from zsad.weights.store import is_here

_PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "open_clip_torch", "timm", "jsonargparse",
    "numpy", "scipy", "scikit-image", "pillow", "albumentations", "safetensors", "rich", "matplotlib",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0, or 1 if not even the embedded backbone works."""
    parser = Parser("zsad doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--clear-cache", action="store_true", help="delete stored text embeddings, and do no more")
    args = parser.parse_args(arguments)
    if args.clear_cache:
        store = TextStore()
        print(f"{store.clear() / 1e6:.1f} MB of text embeddings were deleted from '{shown(store.folder)}'.")
        return 0
    facts = diagnose()
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _show(facts, Console())
    return 0 if facts["embedded_backbone_works"] else 1


def diagnose() -> dict[str, Any]:
    """Return everything that the command knows, as JSON values; the network is not used.

    ``works_offline`` lists, per method, the backbones whose weights are here; ``needs_checkpoint`` says whether the
    method has learned parameters, which come from ``zsad fit``.
    """
    weights = {name: _weights(name) for name in BACKBONES}
    text = TextStore()
    kept = [size for _, size, _ in text.entries()]
    here = [name for name, one in weights.items() if one["cached"]]
    methods = {
        name: {
            "published_backbone": kind.published_backbone,
            "published_weights_cached": cached_weights(kind.published_backbone) is not None,
            "needs_checkpoint": kind.learns(),
            "works_offline": here,
        }
        for name, kind in METHODS.items()
    }
    return {
        "zsad": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": _devices(),
        "cache_folders": [str(folder) for folder in cache_folders()],
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"),
        "offline": offline_reason(),
        "mirror": mirror(),
        "weights_folder": str(weights_folder()),
        "text_embeddings": {"folder": str(text.folder), "entries": len(kept), "megabytes": round(sum(kept) / 1e6, 1)},
        "weights": weights,
        "methods": methods,
        "methods_of_other_packages": outside_methods(),
        "adapters": _adapters(),
        "embedded_backbone_works": weights[MINI]["cached"],
    }


def _adapters() -> dict[str, Any]:
    """Return, per method of which adapters can be had, what a bare name takes and which are here."""
    found: dict[str, Any] = {}
    for name in METHODS:
        usual = default_for(name)
        if usual is not None:
            here = [one.name for one in list_weights(name) if is_here(one)]
            found[name] = {"bare_name_takes": usual.name, "backbone": usual.backbone, "here": here}
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    name = platform.processor() or platform.machine()
    devices: list[dict[str, Any]] = [
        {"device": "cpu", "name": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    ]
    for index in range(torch.cuda.device_count()):
        properties: Any = torch.cuda.get_device_properties(index)
        memory = round(properties.total_memory / 2**30, 1)
        devices.append({"device": f"cuda:{index}", "name": properties.name, "memory_gib": memory})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU"})
    return devices


def _weights(name: str) -> dict[str, Any]:
    path = cached_weights(name)
    there = path is not None and path.is_file()
    return {
        "serves": BACKBONES[name],
        "cached": there,
        "path": str(path) if there else None,
        "megabytes": round(path.stat().st_size / 1e6, 1) if path is not None and there else None,
    }


def _show(facts: dict[str, Any], console: Console) -> None:
    def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        console.print(*tables(heads, rows, console.width, title, rest="zsad doctor --json"), "", sep="\n")

    packages = [[name, found or "not installed"] for name, found in facts["packages"].items()]
    python = ["python", f"{facts['python']} on {facts['system']}"]
    show("versions", ("package", "version"), [["zsad", facts["zsad"]], python, *packages])
    devices = []
    for one in facts["devices"]:
        memory = f"{one['memory_gib']} GiB" if "memory_gib" in one else "memory shared with the CPU"
        extra = f"{one['cores']} cores, {one['threads']} threads" if "cores" in one else memory
        devices.append([one["device"], f"{one['name']} ({extra})"])
    show("devices", ("device", "what"), devices)
    weights = [
        [name, f"here, {one['megabytes']} MB" if one["cached"] else "to be downloaded", one["serves"]]
        for name, one in facts["weights"].items()
    ]
    show("weights on this machine", ("backbone", "weights", "serves"), weights)
    console.print(f"caches: {escape(', '.join(facts['cache_folders']))}", highlight=False)

    methods = []
    for name, one in facts["methods"].items():
        state = "after training" if one["needs_checkpoint"] else "yes"
        published = state if one["published_weights_cached"] else f"no: {one['published_backbone']} is not cached"
        methods.append([name, state if facts["embedded_backbone_works"] else "no: file missing", published])
    show("works offline", ("method", f"with {MINI}", "as published"), methods)
    if others := facts["methods_of_other_packages"]:
        show("methods of other packages", ("method", "class"), list(map(list, others.items())))
    adapters = [
        [name, one["bare_name_takes"], ", ".join(one["here"]) or "none yet"] for name, one in facts["adapters"].items()
    ]
    show("published adapters", ("method", "a bare name takes", "adapters here"), adapters)
    console.print(f"adapters: {escape(facts['weights_folder'])}", highlight=False)
    text = facts["text_embeddings"]
    console.print(
        f"text embeddings: {escape(text['folder'])}, {text['entries']} of {text['megabytes']} MB (--clear-cache)",
        highlight=False,
    )
    if facts["mirror"]:
        console.print(f"mirror: {escape(facts['mirror'])}", highlight=False)
    if facts["offline"]:
        console.print(f"{facts['offline']} is set: nothing will be downloaded.")
