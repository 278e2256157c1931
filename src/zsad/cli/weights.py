"""Trained adapters that people published."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from zsad.cli.arguments import Parser
from zsad.methods.author_files import READERS, convert, reader_of
from zsad.report.terminal import tables
from zsad.weights import backbones, store
from zsad.weights.registry import WeightsEntry, find, list_weights
from zsad.weights.sources import Asked


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = Parser("zsad weights", __doc__)
    commands = made.add_subparsers(dest="command", required=True)
    one = commands.add_parser("list", help="what there is, what it was trained on, its terms, and whether it is here")
    one.add_argument("method", nargs="?", help="of one method")
    one.add_argument("--json", action="store_true", help="print one JSON list")
    one.add_argument("--reach", action="store_true", help="for maintainers: ask whether the files are still there")
    one = commands.add_parser("download", help="fetch adapters now, or everything into a folder for another machine")
    one.add_argument("names", nargs="*", metavar="NAME", help="such as anomalyclip/visa")
    one.add_argument("--all", action="store_true", help="everything that zsad can fetch and read")
    one.add_argument("--to", type=Path, metavar="DIR", help="fill a folder, ZSAD_WEIGHTS_MIRROR of another machine")
    one.add_argument("--mirror", metavar="BASE", help="address or folder that is asked first")
    one.add_argument("--keep", action="store_true", help="keep the authors' own file beside the converted one")
    one.add_argument(
        "--backbone",
        action=argparse.BooleanOptionalAction,
        help="fetch the backbones as well (default: only with --to)",
    )
    one = commands.add_parser("add", help="put a file into the cache that was fetched by hand")
    one.add_argument("name", metavar="NAME")
    one.add_argument("files", nargs="+", type=Path, metavar="FILE")
    one = commands.add_parser("verify", help="compare everything in the cache with its hash; status 1 if one is wrong")
    one.add_argument("names", nargs="*", metavar="NAME")
    one = commands.add_parser("remove", help="delete adapters from the cache")
    one.add_argument("names", nargs="+", metavar="NAME")
    one = commands.add_parser("pin", help="for maintainers: fetch, and print the lines that the table lacks")
    one.add_argument("name", metavar="NAME")
    one = commands.add_parser("card", help="write the folder for publication of a checkpoint of yours")
    one.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="of zsad fit, or a file of save_weights")
    one.add_argument("--out", type=Path, required=True, metavar="DIR")
    one.add_argument("--licence", required=True, help="of the adapters, as the Hub spells it: cc-by-4.0")
    one.add_argument("--results", type=Path, metavar="DIR", help="of zsad benchmark")
    one.add_argument("--no-metrics", action="store_true", help="write a card without results, which says so")
    one.add_argument("--backbone", help="in place of the checkpoint's")
    one.add_argument("--reproduce", metavar="TEXT", help="command line that trains the same adapters again")
    one.add_argument("--push", metavar="OWNER/NAME", help="upload it to the Hugging Face Hub")
    one.add_argument("--public", action="store_true", help="a repository that is made is for everybody")
    for run in (_list, _download, _add, _verify, _remove, _pin, _card):
        commands.choices[run.__name__.removeprefix("_")].set_defaults(run=run)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0, or 1 if ``verify`` found something wrong."""
    args = parser().parse_args(arguments)
    return int(args.run(args))


def _list(args: argparse.Namespace) -> int:
    entries = list_weights(args.method)
    if args.json:
        print(json.dumps([_facts(one) for one in entries], indent=2))
        return 0
    if args.reach:
        return _reach(entries)
    console = Console()
    heads = ("name", "trained on", "here", "commercial use", "status", "size", "data", "code", "backbone")
    for table in tables(heads, list(map(_row, entries)), console.width, rest="zsad weights list --json"):
        console.print(table)
    return 0


def _reach(entries: Sequence[WeightsEntry]) -> int:
    """Ask the server of every file that zsad fetches whether it is there, without fetching it."""
    import httpx

    gone = 0
    with httpx.Client(follow_redirects=True, timeout=30.0, headers={"User-Agent": "zsad"}) as client:
        for entry in entries:
            for file in entry.files if entry.status == "ready" else ():
                try:
                    answer = client.head(file.url)
                    length = answer.headers.get("Content-Length", "")
                    said = f"HTTP {answer.status_code}" + (f", {length} bytes" if length else "")
                    there = answer.status_code == 200
                except httpx.HTTPError as error:
                    said, there = f"{type(error).__name__}: {error}", False
                gone += not there
                print(f"{'there' if there else 'GONE'}  {entry.name}  {said}  {file.url}")
    return 1 if gone else 0


def _facts(entry: WeightsEntry) -> dict[str, Any]:
    content = asdict(entry)
    for file in content["files"]:
        file |= file.pop("expected")
    return {
        **content,
        "trained_on": list(entry.trained_on),
        "data_licence": entry.data_licence,
        "here": store.is_here(entry),
        "readable": entry.layout in READERS and entry.status != "other",
    }


def _row(entry: WeightsEntry) -> list[str]:
    sizes = [file.expected.size for file in entry.files]
    known = sum(size for size in sizes if size is not None)
    words = {"reader": "not read yet", "manual": "fetch by hand", "none": "nothing published", "other": "other method"}
    return [
        entry.name,
        ", ".join(entry.trained_on) if len(entry.trained_on) < 4 else f"{len(entry.trained_on)} sets",
        "yes" if store.is_here(entry) else "-",
        entry.commercial if entry.files else "-",
        words.get(entry.status, entry.status),
        f"{known / 1e6:.1f} MB" if sizes and None not in sizes else "-",
        entry.data_licence or "-",
        entry.code_licence if entry.files else "-",
        entry.backbone or "-",
    ]


def _download(args: argparse.Namespace) -> int:
    if bool(args.names) == args.all:
        raise ValueError("Give names of adapters ('zsad weights list'), or --all.")
    entries = [one for one in list_weights() if one.status == "ready"] if args.all else list(map(find, args.names))
    console = Console(stderr=True)
    for entry in entries:
        reader_of(entry)
        with _progress(console) as bar:
            task = bar.add_task(entry.name, total=None)
            asked = Asked(mirror=args.mirror, keep=args.keep, report=partial(_show, bar, task))
            paths = store.carry(entry, args.to, asked) if args.to else [store.obtain(entry, convert, asked)]
        print(f"{entry.name}: {', '.join(map(str, paths))}")
    with_backbone = args.to is not None if args.backbone is None else args.backbone
    for name in dict.fromkeys(str(entry.backbone) for entry in entries):
        _backbone(name, args.to, with_backbone)
    if args.to:
        print(
            f"On the other machine: export ZSAD_WEIGHTS_MIRROR={args.to.resolve().name} (the path of its copy there)."
        )
    return 0


def _backbone(name: str, to: Path | None, wanted: bool) -> None:
    from zsad.clip.embedded import EMBEDDED
    from zsad.clip.loading import cached_weights, download_weights

    if name in EMBEDDED:
        return
    if not wanted:
        if cached_weights(name) is None:
            print(f"The backbone {name} is not here: it is fetched on first use, or now with --backbone.")
        return
    path = download_weights(name)
    print(f"{name}: {backbones.carry(name, path, to) if to else path}")


def _show(bar: Progress, task: TaskID, done: int, total: int | None) -> None:
    bar.update(task, completed=done, total=total)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())


def _add(args: argparse.Namespace) -> int:
    entry = find(args.name)
    reader_of(entry)
    path = store.add(entry, args.files, convert)
    if not all(file.expected for file in entry.files):
        print(
            "Nobody published a hash of this file: it was read safely, but nothing proves whose it is.", file=sys.stderr
        )
    print(f"{entry.name}: {path}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    entries = list(map(find, args.names)) if args.names else list_weights()
    wrong = 0
    for entry in entries:
        if not store.is_here(entry):
            if args.names:
                print(f"{entry.name}: not here")
            continue
        good = store.intact(entry)
        wrong += not good
        print(f"{entry.name}: {'right' if good else 'WRONG: it is fetched again on next use'}")
    for name in [] if args.names else backbones.carried():
        good = backbones.intact(name)
        wrong += not good
        print(f"{name}: {'right' if good else 'WRONG: copy it again'}")
    return 1 if wrong else 0


def _remove(args: argparse.Namespace) -> int:
    for entry in map(find, args.names):
        gone = store.remove(entry)
        print(f"{entry.name}: {', '.join(path.name for path in gone) or 'nothing was here'}")
    return 0


def _pin(args: argparse.Namespace) -> int:
    entry = find(args.name)
    store.obtain(entry, convert, Asked(mirror=""))
    for number, file in enumerate(store.read_note(entry)["files"]):
        print(f"# {entry.files[number].path}")
        print(f"    git_blob: {file['git_blob']}\n    sha256: {file['sha256']}\n    size: {file['size']}")
    return 0


def _card(args: argparse.Namespace) -> int:
    from zsad.inference.loading import load_model
    from zsad.methods.trained import TrainedMethod
    from zsad.weights.checkpoints import read_checkpoint

    if args.results is None and not args.no_metrics:
        raise ValueError("Give --results, a folder of 'zsad benchmark', or --no-metrics for a card that says so.")
    saved = read_checkpoint(args.checkpoint)
    method = load_model(str(saved.get("zsad", {}).get("method", "")), args.backbone, args.checkpoint, "cpu").method
    if not isinstance(method, TrainedMethod):
        raise ValueError(f"{type(method).__name__} learns nothing: there are no adapters to publish.")
    print(method.save_pretrained(args.out, licence=args.licence, results=args.results, command=args.reproduce))
    if args.push:
        where = method.push_to_hub(
            args.push,
            private=not args.public,
            licence=args.licence,
            results=args.results,
            metrics=not args.no_metrics,
            command=args.reproduce,
        )
        print(where)
    return 0
